"""Released features become shards by one command; what is missing is reported and not fatal."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipeline.features.shards import FeatureSet
from data_pipeline.features.verify import read_failures
from launch import import_features

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

RANDOM = np.random.default_rng(0)


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """Six videos of two queries, one of them without its video, one with too few clips."""
    for name in ("vid_feats", "txt_feats"):
        (tmp_path / name).mkdir()
    rows: list[dict[str, Any]] = []
    for number in range(6):
        vid = f"Video.{number}_0.0_20.0"
        for _ in range(2):
            qid = len(rows)
            text = RANDOM.normal(size=(5, 4 + qid, 16)).astype(np.float16)
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


def test_released_features_become_a_whole_set_and_missing_videos_are_reported(
    released: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert import_features.main(arguments(released)) == 1  # a third is more than 5%
    printed = capsys.readouterr().out
    assert "4 of 6 videos" in printed
    assert "2 of 6 VIDEOS FAILED" in printed
    assert "read again, 0 faults" in printed
    features = FeatureSet(released / "features/train")
    failures = {row["vid"]: row["kind"] for row in read_failures(released / "features/train")}
    assert failures == {"Video.4_0.0_20.0": "missing", "Video.2_0.0_20.0": "other length"}
    made = features.provenance
    assert (made.video_encoder, made.preprocessing) == ("internvideo2-1b", "imported")
    assert made.video_layers == (35, 36, 37, 38, 39)
    assert made.text_layers == (14, 15, 16, 17, 18)
    sample = next(s for s in map(features.read, range(4)) if s.vid == "Video.1_0.0_20.0")
    stored = np.load(released / "vid_feats" / f"{sample.vid}.npz")["visual_feats_interm_pooled"]
    assert np.array_equal(sample.video, stored)
    query = sample.queries[1]
    text = np.load(released / "txt_feats" / f"{query.annotation.qid}.npz")["text_feats"]
    assert np.array_equal(sample.text[slice(*query.tokens)], text.transpose(1, 0, 2))
    before = (released / "features/train/00000.tar").stat().st_mtime_ns
    assert import_features.main(arguments(released, "--threshold", "0.5")) == 0
    assert (released / "features/train/00000.tar").stat().st_mtime_ns == before


def test_a_folder_without_any_of_the_features_is_one_line(
    released: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (released / "other").mkdir()
    given = [*arguments(released), "--video-dir", str(released / "other")]
    assert import_features.main(given) == 2
    assert "none of the videos can be used" in capsys.readouterr().err
