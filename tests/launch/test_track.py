import pytest

from launch.track import main
from trainer.config import TrackingConfig
from trainer.tracking.tracking import Tracker


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    tracker = Tracker(folder, TrackingConfig(mlflow=False), "a run", {}, {})
    tracker.log("train", 1, 0.0, loss=1.0)
    tracker.close("FINISHED")
    return folder


def test_a_folder_without_a_run_and_a_server_that_is_away_are_one_line_each(
    run, tmp_path, monkeypatch, capsys
):
    assert main([str(tmp_path)]) == 2
    assert "give the folder of a run" in capsys.readouterr().err
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    assert main([str(run)]) == 2
    error = capsys.readouterr().err
    assert "cannot be used" in error
    assert "secret" not in error
    assert len(error.strip().splitlines()) == 1
