"""Moments on the terminal, of one video and of several."""

from launch.answers.moments import add_moment, moments_table
from trainer.cli import terminal


def printed(table, capsys):
    terminal().print(table)
    return [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]


def test_a_moment_has_its_seconds_its_score_and_a_bar_as_long(capsys):
    table = moments_table("a dog", "all in one")
    add_moment(table, 2.0, 64.0, 1.0)
    add_moment(table, 0.0, 4.0, 0.5)
    title, header, _, whole, half, caption = printed(table, capsys)
    assert " ".join(title) == "“a dog”"
    assert header == ["from", "to", "score"]
    assert whole == ["2", "s", "1:04", "1.00", "█" * 20]
    assert half == ["0", "s", "4", "s", "0.50", "█" * 10]
    assert " ".join(caption) == "all in one"


def test_of_several_videos_it_is_named_and_a_guess_is_no_bar(capsys):
    table = moments_table("a dog", "", of_videos=True)
    add_moment(table, 2.0, 4.0, 0.5, "holiday", guess="a guess")
    _, header, _, row = printed(table, capsys)
    assert header == ["video", "from", "to", "score"]
    assert row == ["holiday", "2", "s", "4", "s", "0.50", "a", "guess"]
