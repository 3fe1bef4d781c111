"""A picture of answers shows each window where it lies, whatever the sentence."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from trainer.pictures.png import PREDICTED, draw_timelines, wrapped
from trainer.pictures.timeline import Timeline

STRIP = [Image.new("RGB", (32, 18), "teal")] * 4
TEAL = (0, 128, 128)
BLUE = tuple(int(PREDICTED[i : i + 2], 16) for i in (1, 3, 5))


def drawn(path: Path, *lines: Timeline, strip: list[Image.Image] = STRIP) -> NDArray[np.uint8]:
    """(height, width, 3) of the picture."""
    draw_timelines(path, lines, strip)
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def extent(picture: NDArray[np.uint8], colour: tuple[int, ...], least: int) -> tuple[int, int]:
    """First and last column with at least so many pixels of about a colour."""
    alike = (np.abs(picture.astype(int) - colour).max(-1) < 12).sum(0)
    columns = np.flatnonzero(alike >= least)
    return int(columns[0]), int(columns[-1])


def test_a_window_and_the_film_strip_lie_on_one_axis_of_time(tmp_path: Path) -> None:
    line = Timeline("a red circle", 12.0, ((3.0, 6.0, 0.9),))
    picture = drawn(tmp_path / "t.png", line)
    left, right = extent(picture, TEAL, 20)
    start, end = extent(picture, BLUE, 10)
    second = (right - left) / 12
    assert start - left == pytest.approx(3 * second, abs=6)
    assert end - left == pytest.approx(6 * second, abs=6)
    assert [path.name for path in tmp_path.iterdir()] == ["t.png"]


def test_saliency_is_a_line_over_the_whole_video_where_it_is_known(tmp_path: Path) -> None:
    scores = np.linspace(-1, 1, 6, dtype=np.float32)
    picture = drawn(tmp_path / "a.png", Timeline("q", 12.0, (), scores))
    assert extent(picture, BLUE, 2) == pytest.approx(extent(picture, TEAL, 20), abs=4)
    without = drawn(tmp_path / "b.png", Timeline("q", 12.0, ()))
    assert not (np.abs(without.astype(int) - BLUE).max(-1) < 12).any()


def test_each_query_has_its_rows(tmp_path: Path) -> None:
    line = Timeline("q", 12.0, ((0, 2, 0.5), (2, 4, 0.4)))
    one = drawn(tmp_path / "one.png", line, strip=[])
    two = drawn(tmp_path / "two.png", line, line, strip=[])
    assert two.shape[0] > 1.7 * one.shape[0]


@pytest.mark.parametrize(
    "query",
    [
        "$\\frac$",
        "</text><script>",
        '{"expr": "1"}',
        "a\nb",
        "nul \0",
        "\x1b[31m",
        "\ud800",
        "x" * 9999,
    ],
    ids=ascii,
)
def test_any_sentence_is_drawn_as_text(tmp_path: Path, query: str) -> None:
    picture = drawn(tmp_path / "t.png", Timeline(query, 12.0, ()), strip=[])
    plain = drawn(tmp_path / "p.png", Timeline("", 12.0, ()), strip=[])
    assert picture.shape[1] == plain.shape[1]
    assert (picture.shape != plain.shape) or (picture != plain).any()


@pytest.mark.parametrize(
    "text",
    [
        "a dog " * 60,
        "一只狗在水边跑" * 40,
        "x" * 500,
        "كلب يركض على الشاطئ " * 20,
        "🐕 " * 200,
        "",
        " ",
    ],
)
def test_long_sentences_are_wrapped_whatever_their_script(text):
    lines = wrapped(text)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(sum(2 if letter >= "一" else 1 for letter in line) <= 110 for line in lines)
    assert len(lines) == 1 or len(lines) > 2


def test_a_wrapped_sentence_makes_the_picture_higher(tmp_path):
    heights = []
    for text in ("a dog", "a dog runs " * 30):
        line = Timeline(text + " 一只狗 كلب 🐕 $x$ [b]", 10.0, ((1.0, 3.0, 0.9),))
        draw_timelines(tmp_path / "p.png", [line])
        with Image.open(tmp_path / "p.png") as picture:
            heights.append(picture.height)
    assert heights[1] > heights[0] + 40
