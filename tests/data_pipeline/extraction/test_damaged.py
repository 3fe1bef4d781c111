"""Damaged videos: each is named with its cause and class, and none of them costs a good one."""

from pathlib import Path

import numpy as np
import pytest

from data_pipeline.extraction.decoder import Decoded, Decoder, Decoding
from data_pipeline.features.writing import Failure
from tests.data_pipeline.extraction.damaged import DAMAGES, write_corpus

SEEDS = 3


def decode(folder: Path, vid: str) -> object:
    """The last word of a decoder on a video."""
    *_, last = Decoder(Decoding(folder, 0.5, 2, 32, time_limit=60, retries=0)).decode(vid)
    return last


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_video_is_named_with_its_cause_and_class(tmp_path: Path, name: str) -> None:
    for seed in range(SEEDS):
        vid = f"video{seed}"
        DAMAGES[name].make(tmp_path / f"{vid}.mp4", np.random.default_rng(seed))
        failure = decode(tmp_path, vid)
        assert isinstance(failure, Failure)
        assert failure.kind in DAMAGES[name].kinds, failure
        assert vid in failure.cause
        assert "\n" not in failure.cause


def test_good_videos_of_the_corpus_are_decoded(tmp_path: Path) -> None:
    assert write_corpus(tmp_path, good=2, bad=1) == {"bad0": "empty"}
    assert decode(tmp_path / "videos", "good1") == Decoded(1.1, pytest.approx(30, abs=30))
