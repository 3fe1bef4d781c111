"""An archive becomes features as it lies; what it gains later is added and touches nothing."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("transformers")
pytest.importorskip("ray")

from data_pipeline.config import EncoderConfig, ExtractionConfig, ShardingConfig
from data_pipeline.errors import InputError
from data_pipeline.extraction.annotating import annotate
from data_pipeline.extraction.archive import ArchivePlan
from data_pipeline.extraction.encoding import FeatureEncoder
from data_pipeline.extraction.extraction import extract
from data_pipeline.features.shards import FeatureSet, Provenance
from data_pipeline.features.verify import read_failures, verify
from data_pipeline.storage import Location
from launch import shards as command
from tests.clip_checkpoints import save_checkpoint
from tests.data_pipeline.extraction.archives import picture, write_tar

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]

MakeVideo = Callable[..., Path]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    save_checkpoint(folder, "clip")
    return folder


@pytest.fixture
def config(tmp_path: Path, checkpoint: Path) -> ExtractionConfig:
    (tmp_path / "top").mkdir()
    return ExtractionConfig(
        videos=tmp_path / "top",
        output=tmp_path / "set",
        encoder=EncoderConfig(
            video="clip",
            text="clip",
            video_layers=(1,),
            text_layers=(0, 1),
            checkpoint=str(checkpoint),
            clip_length=0.5,
            batch=2,
        ),
        sharding=ShardingConfig(videos=2),
        workers=1,
        threshold=1.0,
    )


def stored(config: ExtractionConfig) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(Path(config.output).glob("0*"))}


def vids(config: ExtractionConfig) -> set[str]:
    return {entry.vid for entry in FeatureSet(config.output).samples}


def test_a_grown_archive_gets_shards_for_what_is_new(
    config: ExtractionConfig, make_video: MakeVideo
) -> None:
    top = Path(config.videos)
    (top / "x" / "deep").mkdir(parents=True)
    for number, name in enumerate(("x/deep/film.mp4", "x/film.mp4", "film.mp4")):
        make_video(top / name, frames=10 + 5 * number)
    shutil.move(make_video(top / "capital.mp4", frames=8), top / "capital.MOV")
    whole = (top / "film.mp4").read_bytes()
    (top / "late.mp4").write_bytes(whole[: len(whole) // 2])
    writer = open(top / "film.mp4", "ab")  # noqa: SIM115  # somebody is at it
    try:
        first = extract(config)
    finally:
        writer.close()
    assert vids(config) == {"x/deep/film.mp4", "x/film.mp4", "capital.MOV"}
    failed = {row["vid"]: row["kind"] for row in read_failures(config.output)}
    assert failed.keys() == {"film.mp4", "late.mp4"}
    assert failed["film.mp4"] == "being written"
    assert (first.stored, first.videos, first.queries) == (3, 5, 0)
    assert list(verify(config.output)) == []

    before = stored(config)
    make_video(top / "y.mp4", frames=9)
    (top / "late.mp4").write_bytes(whole)
    (top / "x" / "film.mp4").unlink()
    second = extract(config)
    everything = {"x/deep/film.mp4", "x/film.mp4", "capital.MOV", "film.mp4", "late.mp4", "y.mp4"}
    assert vids(config) == everything
    assert {name: stored(config)[name] for name in before} == before
    assert read_failures(config.output) == []
    ((said, names),) = second.noted.items()
    assert names == ["x/film.mp4"]
    assert "--drop_removed" in said

    sample = FeatureSet(config.output)
    (index,) = (i for i, entry in enumerate(sample.samples) if entry.vid == "x/deep/film.mp4")
    alone = FeatureEncoder(config.encoder).encode_video(top / "x" / "deep" / "film.mp4")
    np.testing.assert_array_equal(sample.read(index).video, alone.features)

    third = extract(replace(config, drop_removed=True))
    assert third.shards_made == 0
    assert vids(config) == everything - {"x/film.mp4"}
    assert list(verify(config.output)) == []
    again = stored(config)
    assert extract(config).noted == {}
    assert stored(config) == again


def test_a_tar_becomes_a_shard_of_the_same_bytes_whatever_is_lost(
    config: ExtractionConfig, make_video: MakeVideo, tmp_path: Path
) -> None:
    video = make_video(tmp_path / "v.mp4", frames=20).read_bytes()
    other = make_video(tmp_path / "w.mp4", frames=13).read_bytes()
    top = Path(config.videos)
    write_tar(
        top / "00000.tar",
        [
            *(("000.mp4", video), ("000.txt", b"a dog runs"), ("000.json", b"{}")),
            ("001.mp4", b"no video at all" * 99),
            *(("002.mp4", other), ("002.txt", b"a dog runs in the red square " * 9)),
            *(("003.0.jpg", picture("red")), ("003.1.jpg", picture("blue"))),
            ("../evil.mp4", video),
        ],
    )
    write_tar(top / "00001.tar", [("000.mp4", other)])
    (top / "cut.tar").write_bytes((top / "00000.tar").read_bytes()[: len(video) + 1024 + 3000])
    config = replace(config, captions=True)
    summary = extract(config)
    assert vids(config) == {"00000/000", "00000/002", "00000/003", "00001/000", "cut/000"}
    assert summary.shards == 3
    kinds = {row["vid"]: row["kind"] for row in read_failures(config.output)}
    assert kinds.pop("00000/001") not in ("io", "crash")
    assert kinds == {"00000/sample 5": "unfit name", "cut": "damaged tar"}
    features = FeatureSet(config.output)
    samples = {entry.vid: features.read(i) for i, entry in enumerate(features.samples)}
    encoder = FeatureEncoder(config.encoder)
    alone = encoder.encode_video(tmp_path / "v.mp4")
    np.testing.assert_array_equal(samples["00000/000"].video, alone.features)
    (query,) = samples["00000/000"].queries
    assert (query.annotation.query, query.annotation.qid) == ("a dog runs", "00000/000")
    assert query.annotation.windows == ((0.0, 2.0),)
    assert len(samples["00000/003"].video) == 4  # two pictures, one a second
    assert samples["00001/000"].queries == ()
    assert summary.sentences_cut == 1
    assert list(verify(config.output)) == []

    before = stored(config)
    for name in ("00000.tar", "00001.json"):
        (Path(config.output) / name).unlink()
    assert extract(config).shards_made == 2
    assert stored(config) == before

    write_tar(top / "cut.tar", [("000.mp4", video), ("001.mp4", other)])  # fetched again
    assert extract(config).shards_made == 1
    assert {"cut/000", "cut/001"} <= vids(config)
    assert list(verify(config.output)) == []


def test_sentences_are_joined_to_stored_videos(
    config: ExtractionConfig,
    make_video: MakeVideo,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    top = Path(config.videos)
    (top / "a").mkdir()
    for name in ("a/film.mp4", "a/other.mp4", "film.mp4", "film.mkv"):
        make_video(top / name, frames=10)
    extract(config)
    plain = FeatureSet(config.output)
    videos = {entry.vid: plain.read(i).video for i, entry in enumerate(plain.samples)}
    for path in top.rglob("*.m*"):
        path.unlink()  # they are not needed any more

    settings = tmp_path / "encoder.yaml"
    checkpoint = config.encoder.checkpoint
    settings.write_text(
        f"encoder: {{video: clip, text: clip, video_layers: [1], text_layers: [0, 1], "
        f"checkpoint: '{checkpoint}', clip_length: 0.5, batch: 2}}"
    )

    def rows(*queries: tuple[int, str, str]) -> Path:
        path = tmp_path / "rows.jsonl"
        path.write_text(
            "".join(
                json.dumps({"qid": q, "query": text, "vid": vid, "duration": 1.0}) + "\n"
                for q, vid, text in queries
            )
        )
        return path

    def join(path: Path) -> int:
        return command.main(["annotate", str(config.output), str(path), f"--encoder={settings}"])

    first = rows((0, "a/film.mp4", "a dog"), (1, "a/film", "a cat"), (2, "film.mkv", "a dog runs"))
    assert join(first) == 0
    assert "3 sentences joined, 0 were there" in capsys.readouterr().out
    assert list(verify(config.output, first)) == []
    features = FeatureSet(config.output)
    for index, entry in enumerate(features.samples):
        sample = features.read(index)
        np.testing.assert_array_equal(sample.video, videos[entry.vid])
        for number, query in enumerate(sample.queries):
            (alone,) = FeatureEncoder(config.encoder).encode_sentences([query.annotation.query])
            np.testing.assert_array_equal(sample.text[slice(*query.tokens)], alone.features)
            assert sample.joint is not None
            np.testing.assert_array_equal(sample.joint[entry.clips + number], alone.joint)
    before = stored(config)
    assert join(first) == 0
    assert "0 sentences joined, 3 were there, in 0 shards" in capsys.readouterr().out
    assert stored(config) == before

    long = "a dog runs in the red square " * 4
    more = rows((1, "a/film", "a person"), (3, "a/other", long), (4, "film", "?"), (5, "b", "?"))
    assert join(more) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "2 sentences joined" in said
    assert "2 rows speak of videos that are not stored: film, b" in said  # film: of which suffix?
    assert "1 sentences are longer" in said
    texts = {
        query.annotation.qid: query.annotation.query
        for index in range(len(features.samples))
        for query in FeatureSet(config.output).read(index).queries
    }
    assert texts == {0: "a dog", 1: "a person", 2: "a dog runs", 3: long}
    (unread,) = map(json.loads, (Path(config.output) / "unread.jsonl").read_text().splitlines())
    assert unread == {"qid": 3, "tokens": 14}
    assert list(verify(config.output)) == []


def test_joining_goes_on_where_it_was_killed(
    config: ExtractionConfig,
    make_video: MakeVideo,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        make_video(Path(config.videos) / name, frames=10)
    extract(config)
    untouched = shutil.copytree(config.output, tmp_path / "untouched")
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        "".join(
            json.dumps({"qid": n, "query": "a dog", "vid": vid, "duration": 1.0}) + "\n"
            for n, vid in enumerate("abc")
        )
    )

    def encoder(_: Provenance) -> FeatureEncoder:
        return FeatureEncoder(config.encoder)

    assert annotate(untouched, rows, encoder).joined == 3
    expected = {p.name: p.read_bytes() for p in untouched.glob("0*")}
    expected |= {n: (untouched / n).read_bytes() for n in ("manifest.json", "index.safetensors")}

    class Killed(BaseException):
        pass

    writes = 0
    real_write, real_unlink = Location.write_bytes, Location.unlink

    def dying(real: Callable[..., None], at: int) -> Callable[..., None]:
        def wrapped(self: Location, *args: bytes) -> None:
            nonlocal writes
            writes += 1
            if writes == at:
                raise Killed
            real(self, *args)

        return wrapped

    stops = 0
    for at in range(1, 20):
        folder, writes = tmp_path / f"killed-{at}", 0
        shutil.copytree(config.output, folder)
        with monkeypatch.context() as patch:
            patch.setattr(Location, "write_bytes", dying(real_write, at))
            patch.setattr(Location, "unlink", dying(real_unlink, at))
            try:
                annotate(folder, rows, encoder)
                break
            except Killed:
                stops += 1
        annotate(folder, rows, encoder)
        assert {name: (folder / name).read_bytes() for name in expected} == expected
        assert not list(folder.glob("*.next"))
    assert stops >= 5


def test_what_cannot_be_known_apart_is_refused(config: ExtractionConfig) -> None:
    top = Path(config.videos)
    (top / "a").mkdir()
    (top / "a" / "b.mp4").write_bytes(b"x")
    (top / "a.tar").write_bytes(b"x")
    with pytest.raises(InputError, match=r"a\.tar and a folder a"):
        ArchivePlan(config)
    with pytest.raises(InputError, match="without annotations"):
        extract(replace(config, captions=True, annotations=top / "rows.jsonl"))
    assert not Path(config.output).exists()


def test_a_plan_that_was_altered_leads_nowhere_else(
    config: ExtractionConfig, make_video: MakeVideo
) -> None:
    make_video(Path(config.videos) / "a.mp4", frames=10)
    output = Path(config.output)
    output.mkdir()
    good = {"name": "a.mp4", "path": "/x/a.mp4", "stamp": "", "shard": "00000"}
    for change in (
        {"shard": "../../00000"},
        {"shard": "x"},
        {"name": "../a.mp4"},
        {"path": 3},
        {"stamp": None},
    ):
        (output / "archive.jsonl").write_text(json.dumps(good | change) + "\n")
        with pytest.raises(InputError, match=r"archive\.jsonl"):
            ArchivePlan(config).shards()
