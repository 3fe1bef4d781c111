"""Released features become shards by one command; what is missing is reported and not fatal."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipeline.annotations import read_annotations
from data_pipeline.config import ImportConfig
from data_pipeline.errors import InputError
from data_pipeline.extraction.job_folder import JobFolder
from data_pipeline.extraction.plan import plan_shards
from data_pipeline.extraction.pool import VideoDone
from data_pipeline.features.rewriting import rewrite_shard
from data_pipeline.features.samples import Sample
from data_pipeline.features.shards import FeatureSet, Provenance, read_json
from data_pipeline.features.verify import read_failures, verify
from data_pipeline.features.writing import write_manifest
from data_pipeline.importing.features import (
    Importer,
    check_lengths,
    find_streams,
    provenance_of,
)
from data_pipeline.storage import Location
from data_pipeline.video.video import clip_count
from launch import import_features
from tests.launch.released_layouts import LAYOUTS, TOKENS, VIDEOS
from tests.launch.released_layouts import rows as layout_rows
from tests.launch.released_layouts import write as write_layout
from trainer.cli import parse_config


def slow(test: Any) -> Any:
    return pytest.mark.slow(pytest.mark.timeout(400)(test))


RANDOM = np.random.default_rng(0)


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """Six videos of two queries: one without its video, one of too few rows, one query without."""
    for name in ("vid_feats", "txt_feats"):
        (tmp_path / name).mkdir()
    rows: list[dict[str, Any]] = []
    for number in range(6):
        vid = f"Video.{number}_0.0_20.0"
        for _ in range(2):
            qid = len(rows)
            text = RANDOM.normal(size=(5, 4 + qid, 16)).astype(np.float16)
            if qid != 11:
                np.savez(tmp_path / "txt_feats" / f"{qid}.npz", text_feats=text)
            row = {"qid": qid, "query": f"query {qid}", "vid": vid, "duration": 20}
            rows.append(row | {"relevant_windows": [[0, 4]]})
        video = RANDOM.normal(size=(3 if number == 2 else 10, 5, 24)).astype(np.float16)
        if number != 4:
            np.savez(tmp_path / "vid_feats" / f"{vid}.npz", visual_feats_interm_pooled=video)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def arguments(folder: Path, *more: str) -> list[str]:
    return [
        *("--video-dir", str(folder / "vid_feats"), "--text-dir", str(folder / "txt_feats")),
        *("--annotations", str(folder / "rows.jsonl"), "--out", str(folder / "features/train")),
        *("--workers", "2", "--sharding.videos", "3", *more),
    ]


@slow
def test_released_features_become_a_whole_set_and_missing_videos_are_reported(
    released: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert import_features.main(arguments(released)) == 1  # a third is more than 5%
    printed = capsys.readouterr().out
    assert "5 of 6 videos, 9 queries" in printed
    assert "1 of 6 VIDEOS FAILED: 1 missing" in printed
    assert "1 of 10 queries of stored videos have no features that can be used" in printed
    assert "Video.2_0.0_20.0 (20 s annotated, about 6 s found)" in printed
    assert "rows more or fewer than annotated: 7" in printed
    assert "read again, 0 faults" in printed
    features = FeatureSet(released / "features/train")
    assert str(features.columns.arrays.source).endswith("train/index.safetensors")
    failures = [(row["vid"], row.get("qid"), row["kind"]) for row in read_failures(features.folder)]
    assert sorted(failures, key=str) == [
        ("Video.4_0.0_20.0", None, "missing"),
        ("Video.5_0.0_20.0", 11, "missing"),
    ]
    made = features.provenance
    assert "which encoders made them is not known: if they are those of sdst" in printed
    assert (made.video_encoder, made.text_encoder, made.frames_per_clip) == (*["unknown"] * 2, 0)
    assert (made.preset, made.preprocessing) == ("sdst", "imported")
    assert made.video_layers == made.text_layers == (0, 1, 2, 3, 4)
    assert "frames" not in made.summary()["clips"]
    sample = next(s for s in map(features.read, range(5)) if s.vid == "Video.1_0.0_20.0")
    stored = np.load(released / "vid_feats" / f"{sample.vid}.npz")["visual_feats_interm_pooled"]
    assert np.array_equal(sample.video, stored)
    query = sample.queries[1]
    text = np.load(released / "txt_feats" / f"{query.annotation.qid}.npz")["text_feats"]
    assert np.array_equal(sample.text[slice(*query.tokens)], text.transpose(1, 0, 2))
    before = (released / "features/train/00000.tar").stat().st_mtime_ns
    assert import_features.main(arguments(released, "--threshold", "0.5")) == 0
    assert (released / "features/train/00000.tar").stat().st_mtime_ns == before


def test_encoders_are_those_that_were_named_by_a_preset_or_by_hand(released: Path) -> None:
    given = ["--output" if each == "--out" else each for each in arguments(released)]
    config = import_features.with_preset("sdst", given)
    named = provenance(config)
    assert (named.video_encoder, named.frames_per_clip) == ("internvideo2-1b", 4)
    assert named.video_layers == (35, 36, 37, 38, 39)
    assert named.text_layers == (14, 15, 16, 17, 18)
    told = parse_config(ImportConfig, [*given, "--video-encoder", "mine", "--video-depth", "12"])
    made = provenance(import_features.without_claims(config, told))
    assert (made.video_encoder, made.text_encoder, made.frames_per_clip) == ("mine", "unknown", 0)
    assert made.video_layers == (7, 8, 9, 10, 11)


def provenance(config: ImportConfig) -> Provenance:
    annotations = read_annotations(config.annotations)
    return provenance_of(config, find_streams(config, annotations), annotations)


@slow
def test_a_folder_without_any_of_the_features_is_one_line(
    released: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (released / "other").mkdir()
    given = [*arguments(released), "--video-dir", str(released / "other")]
    assert import_features.main(given) == 2
    error = capsys.readouterr().err
    assert "none of the videos can be used: no known layout; found nothing; looked for" in error
    assert "sdst (" in error
    assert error.count("\n") == 1
    assert import_features.main([*given, "--preset", "sdst"]) == 2
    assert "{vid}.npz: no such file for any of 6 videos" in capsys.readouterr().err


def presets(folder: Path, *more: str) -> list[str]:
    return [
        *("--features", str(folder), "--annotations", str(folder / "annotations.jsonl")),
        *("--output", str(folder.with_name("features")), "--workers", "1", *more),
    ]


def test_every_preset_has_a_layout_to_be_tried_on() -> None:
    assert sorted(LAYOUTS) == sorted(path.stem for path in import_features.PRESETS.glob("*.yaml"))


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_recognised_or_its_preset_asked_for(name: str, tmp_path: Path) -> None:
    write_layout(tmp_path / "released", name)
    given = presets(tmp_path / "released")
    config = import_features.with_preset(name, given)
    both = {"pann": "moment-detr or pann", "lighthouse-pann": "lighthouse-pann or lighthouse"}
    if several := both.get(name):
        with pytest.raises(InputError, match=f"{several}; say which with --preset"):
            import_features.recognised(config, given)
        return
    # What gives the same features of these short videos is taken for one of them.
    expected = {"activitynet-slowfast-clip": "moment-detr"}.get(name, name)
    assert import_features.recognised(config, given) == expected


def imported(folder: Path, name: str) -> FeatureSet:
    """What the import makes of a folder, in this process."""
    config = import_features.with_preset(name, presets(folder))
    annotations = read_annotations(config.annotations)
    source = find_streams(config, annotations)
    provenance = provenance_of(config, source, annotations)
    importer = Importer(config, source)
    importer.load()
    Location(config.output).mkdir()
    [shard] = plan_shards(annotations, config.sharding, config.clip_length)
    for heard in importer.make(shard):
        assert not isinstance(heard, VideoDone) or heard.failure is None
    index = read_json(Location(config.output) / "00000.json")
    write_manifest(config.output, "train", provenance, {"name": "rows"}, [index])
    return FeatureSet(config.output)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_preset_takes_its_layout_in(name: str, tmp_path: Path) -> None:
    write_layout(tmp_path / "released", name)
    features = imported(tmp_path / "released", name)
    layout, made = LAYOUTS[name], features.provenance
    config = import_features.with_preset(name, presets(tmp_path / "released"))
    widths = [width for width, _ in layout.video.values()]
    assert features.video_shape == (layout.before[0] if layout.before else 1, sum(widths))
    assert made.preset == name
    streams = made.options["video"]["streams"]
    assert sum(each["width"] for each in streams) == sum(widths)
    assert not list(verify(config.output, config.annotations))
    for sample in map(features.read, range(len(features.samples))):
        assert len(sample.video) == clip_count(VIDEOS[sample.vid], config.clip_length)
        assert len(sample.queries) == 2
        if not config.spread:
            assert sample.duration == VIDEOS[sample.vid]
        start = 0
        for each in streams:
            norms = np.linalg.norm(
                sample.video[:, 0, start : start + each["width"]].astype(np.float32), axis=1
            )
            assert np.allclose(norms, 1, atol=2e-3) == each["l2"]
            start += each["width"]
        for query in sample.queries:
            first, end = query.tokens
            tokens = {"charades-vgg-glove": 3, "universalvtg": TOKENS - 1}.get(name, TOKENS)
            assert end - first == tokens


def test_a_stream_that_one_video_lacks_is_named_and_the_rest_completes(tmp_path: Path) -> None:
    folder = tmp_path / "released"
    write_layout(folder, "moment-detr")
    (folder / "clip_features" / "b1.npz").unlink()
    config = import_features.with_preset("moment-detr", presets(folder))
    annotations = read_annotations(config.annotations)
    importer = Importer(config, find_streams(config, annotations))
    Location(config.output).mkdir()
    [shard] = plan_shards(annotations, config.sharding, config.clip_length)
    done = [heard for heard in importer.make(shard) if isinstance(heard, VideoDone)]
    [failed] = [video.failure for video in done if video.failure]
    assert (failed.vid, failed.kind) == ("b1", "missing")
    assert failed.cause.endswith("clip_features/b1.npz: no such feature file")
    assert len(done) == 3


def test_the_other_order_of_streams_is_refused_in_one_line(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_layout(tmp_path / name / "released", "moment-detr")
    first = imported(tmp_path / "a" / "released", "moment-detr")
    second = imported(tmp_path / "b" / "released", "lighthouse")
    with pytest.raises(InputError, match=r"slowfast \+ clip-b32, not clip-b32 \+ slowfast") as said:
        first.check_same_features(second)
    assert "\n" not in str(said.value)
    assert first.provenance.summary()["video streams"] == (
        "slowfast 14 L2 (at most 75 rows) + clip-b32 6 L2 (at most 75 rows)"
    )


@slow
def test_what_was_cut_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_layout(tmp_path / "released", "moment-detr")
    assert import_features.main(presets(tmp_path / "released")) == 0
    printed = capsys.readouterr().out
    assert "has the layout of moment-detr" in printed
    assert "videos cut to their shortest stream: 3" in printed
    assert "rows beyond the shortest stream: 3" in printed
    summary = json.loads((tmp_path / "features" / "summary.json").read_text())
    assert summary["counted"]["videos cut to their shortest stream"] == 3


def test_a_mistyped_preset_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'moment-detr'"):
        import_features.with_preset("momentdetr", presets(tmp_path))
    with pytest.raises(InputError, match="is unknown"):
        import_features.with_preset("../quickstart", presets(tmp_path))


def test_sentences_beyond_the_maximum_of_tokens_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "released"
    write_layout(folder, "moment-detr")
    long = RANDOM.normal(size=(40, 6)).astype(np.float32)
    np.savez(folder / "clip_text_features" / "qid3.npz", last_hidden_state=long)
    features = imported(folder, "moment-detr")
    index = read_json(features.folder / "00000.json")
    assert index["unread"] == [[3, 8]]
    stored = [query for i in range(3) for query in features.read(i).queries]
    tokens = {query.annotation.qid: query.tokens[1] - query.tokens[0] for query in stored}
    assert tokens[3] == 32


def test_windows_behind_the_rows_that_are_taken_are_counted(tmp_path: Path) -> None:
    folder = tmp_path / "released"
    rows = layout_rows()[:2]
    rows[0]["relevant_windows"] = [[2, 4], [160, 170]]
    for row in rows:
        row["duration"] = 180
    write_layout(folder, "moment-detr", rows)
    features = imported(folder, "moment-detr")
    counted = read_json(features.folder / "00000.json")["counted"]
    assert counted["windows behind the last row that was taken, which train nothing"] == 1
    assert counted["rows beyond the maximum"] == 15


def test_a_video_of_one_row_is_taken_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "released"
    write_layout(folder, "moment-detr")
    rows = {}
    for stream, width in (("slowfast_features", 14), ("clip_features", 6)):
        row = rows[stream] = RANDOM.normal(size=(1, width)).astype(np.float32)
        np.savez(folder / stream / "b1.npz", features=row)
    features = imported(folder, "moment-detr")
    sample = next(s for s in map(features.read, range(3)) if s.vid == "b1")
    expected = [row / (np.linalg.norm(row) + 1e-5) for row in rows.values()]
    assert np.allclose(sample.video[:, 0], np.concatenate(expected, axis=1), atol=1e-3)
    assert sample.duration == 2
    counted = read_json(features.folder / "00000.json")["counted"]
    assert counted["videos of more or fewer rows than annotated"] == 1
    assert counted["rows more or fewer than annotated"] == clip_count(VIDEOS["b1"], 2) - 1


def test_a_clip_length_that_most_videos_do_not_have_is_refused_first(tmp_path: Path) -> None:
    write_layout(tmp_path / "released", "moment-detr")
    given = presets(tmp_path / "released")
    config = import_features.with_preset("moment-detr", [*given, "--clip-length", "4"])
    annotations = read_annotations(config.annotations)
    with pytest.raises(InputError, match="for 3 of 3 videos; is clip_length right"):
        check_lengths(config, find_streams(config, annotations), annotations)


def test_a_query_that_cannot_be_used_is_left_out_and_its_video_only_without_another(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "released"
    write_layout(folder, "moment-detr")
    rows = layout_rows()
    first, alone = rows[0]["qid"], [row["qid"] for row in rows if row["vid"] == "b1"]
    for qid in (first, *alone):
        (folder / "clip_text_features" / f"qid{qid}.npz").write_bytes(b"damaged")
    config = import_features.with_preset("moment-detr", presets(folder))
    annotations = read_annotations(config.annotations)
    importer = Importer(config, find_streams(config, annotations))
    Location(config.output).mkdir()
    [shard] = plan_shards(annotations, config.sharding, config.clip_length)
    done = [heard for heard in importer.make(shard) if isinstance(heard, VideoDone)]
    assert [video.vid for video in done if video.failure] == ["b1"]
    index = read_json(Location(config.output) / "00000.json")
    assert [each["vid"] for each in index["failures"]] == ["b1"]
    assert [(each["vid"], each["qid"]) for each in index["left_out"]] == [(rows[0]["vid"], first)]
    again = JobFolder(Location(config.output), retry_failed=True)
    assert JobFolder(Location(config.output), retry_failed=False).is_done(shard)
    assert not again.is_done(shard)

    def same(sample: Sample) -> Sample:
        return sample

    kept = rewrite_shard(Location(config.output), index, config.clip_length, same)
    assert kept["left_out"] == index["left_out"]
