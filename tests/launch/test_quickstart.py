import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch import predict, quickstart

pytest.importorskip("efficientnet_lite_pytorch", reason="needs the group `quickstart`")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_whole_job_runs_and_a_second_call_does_only_what_is_missing(store, tmp_path, capfd):
    run = tmp_path / "runs" / "quickstart"
    command = ["--videos", "10", "--workers", "1", "--train", '["--epochs=2", "--model.width=64"]']
    assert quickstart.main(command) == 0
    printed = capfd.readouterr().out
    assert "mlflow ui" in printed
    assert "whole video" in printed

    result = json.loads((run / "metrics.json").read_text())
    assert {"R1@0.5", "HIT@1"} <= set(result["metrics"])
    report = (run / "report.html").read_text()
    assert report.count("data:image/jpeg") >= 6
    assert "http://" not in report.replace("http://www.w3.org/", "")

    [recorded] = store.search_runs([store.get_experiment_by_name("sdst").experiment_id])
    assert recorded.info.status == "FINISHED"
    assert recorded.data.params["model.width"] == "64"
    assert "train/pairs_per_second" in recorded.data.metrics
    artifacts = {item.path for item in store.list_artifacts(recorded.info.run_id)}
    assert {"config.yaml", "predictions.jsonl", "report.html"} <= artifacts

    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if is_result(path)}
    assert quickstart.main(command) == 0
    assert made == {path: path.stat().st_mtime_ns for path in made}

    video = min((tmp_path / "data" / "quickstart" / "videos").glob("*.mp4"))
    found = tmp_path / "found.json"
    assert predict.main([str(video), "a red ring", "--model", str(run), "--json", str(found)]) == 0
    assert json.loads(found.read_text())

    # The documents' examples, as written; they ask about a video of the whole quick start.
    video.with_name("quickstart_s0_0224.mp4").symlink_to(video)
    assert run_example("README.md").count(" to ") == 2  # one window a sentence
    assert "a batch: torch.Size([16, " in run_example("data_pipeline/README.md")


def run_example(document: str) -> str:
    """What the first example in Python of a document prints."""
    text = (quickstart.ROOT / document).read_text()
    code, *_ = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    environment = os.environ | {"PYTHONPATH": str(quickstart.ROOT)}
    return subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)


def is_result(path: Path) -> bool:
    return path.suffix in {".mp4", ".tar", ".safetensors", ".html"} or path.name == "metrics.jsonl"


LAUNCHED = """
import pathlib, signal, sys, time
def save(*_):
    time.sleep(1)
    pathlib.Path(sys.argv[1], "saved").touch()
    sys.exit(130)
signal.signal(signal.SIGINT, save)
pathlib.Path(sys.argv[1], "began").touch()
time.sleep(100)
"""
LAUNCHER = f"""
import subprocess, sys
subprocess.run([sys.executable, "-c", {LAUNCHED!r}, sys.argv[1]])
"""
US = """
import sys
from launch.quickstart import run
from trainer.cli import command
@command
def main(args=None):
    run([sys.executable, "-c", sys.argv[1], sys.argv[2]])
sys.exit(main())
"""


def test_ctrl_c_waits_until_the_training_is_saved_and_shows_no_trace(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", US, LAUNCHER, str(tmp_path)], stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / "began").exists():
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert (tmp_path / "saved").exists()
    assert said == "interrupted; run the same command again to go on\n"
