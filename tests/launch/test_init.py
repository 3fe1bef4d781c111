"""`python -m launch.init` writes an experiment to begin with, and says what comes next."""

import subprocess

import pytest

from launch.init import main, next_commands
from trainer.cli import load_config
from trainer.config import Config


@pytest.mark.parametrize("name", ["mine", "my dogs: [x] #1", "  é 'q'"])
def test_the_written_experiment_is_one_that_the_trainer_takes(tmp_path, capsys, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert main([name]) == 0
    config = load_config(Config, tmp_path / name / "own.yaml")
    assert config.name == name
    assert config.data.train == f"{name}/features/train"
    assert str(config.videos) == f"{name}/videos"
    assert (tmp_path / name / "videos").is_dir()
    shown = capsys.readouterr().out
    for command in ("launch.extract", "sdst-train --config", "launch.predict"):
        assert command in shown


def test_the_next_commands_are_three_that_a_shell_takes(tmp_path):
    commands = next_commands(tmp_path / "my dogs; echo $HOME")
    assert len(commands) == 3
    for line in commands:
        assert subprocess.run(["bash", "-n", "-c", line]).returncode == 0


def test_what_is_there_is_not_written_over(tmp_path, capsys):
    (tmp_path / "own.yaml").write_text("mine\n")
    assert main([str(tmp_path)]) == 2
    assert "own.yaml: is there already" in capsys.readouterr().err
    assert (tmp_path / "own.yaml").read_text() == "mine\n"
