"""`python -m launch.parameters` says how large a configuration is."""

from launch.parameters import main


def test_the_table_of_an_experiment_names_parts_and_adds_up(tmp_path, capsys):
    experiment = tmp_path / "e.yaml"
    experiment.write_text("name: small\nmodel: {width: 64, heads: 4, video_width: 12}\n")
    assert main(["--config", str(experiment), "--model.width", "32", "--model.text_width=10"]) == 0
    rows = [line.split("│") for line in capsys.readouterr().out.splitlines() if "│" in line]
    counts = {row[1].strip(): int(row[2].replace(",", "")) for row in rows}
    total = counts.pop("total")
    assert total == sum(counts.values())
    assert {"dense.clip_attention", "sparse.reference_queries", "actionness.reduce"} <= set(counts)


def test_an_impossible_configuration_is_one_line(capsys):
    assert main(["--model.width", "33"]) == 2
    assert "width is 33: make it a multiple of" in capsys.readouterr().err
