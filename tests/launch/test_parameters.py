"""`python -m launch.parameters` says how large a configuration is."""

from launch.parameters import main


def test_the_table_names_parts_and_adds_up(capsys):
    assert main(["--width", "32", "--heads", "4", "--video_width", "12", "--text_width", "10"]) == 0
    rows = [line.split("│") for line in capsys.readouterr().out.splitlines() if "│" in line]
    counts = {row[1].strip(): int(row[2].replace(",", "")) for row in rows}
    total = counts.pop("total")
    assert total == sum(counts.values())
    assert {"dense.clip_attention", "sparse.reference_queries", "actionness.reduce"} <= set(counts)


def test_an_impossible_configuration_is_one_line(capsys):
    assert main(["--width", "33"]) == 2
    assert "width is 33: make it a multiple of" in capsys.readouterr().err
