import json

import pytest

from launch.profile import main

TINY = [
    *("--data.batch_size=4", "--steps=2", "--clips=12", "--tokens=4", "--model.width=16"),
    *("--model.heads=2", "--model.queries=3", "--model.layers=[-1]", "--model.video_width=12"),
    *("--model.text_width=10", "--data.order.lanes=4"),
]


@pytest.mark.parametrize("stored", [True, False])
def test_every_phase_is_listed_and_a_trace_is_written(make_features, tmp_path, capsys, stored):
    if stored:
        make_features(tmp_path / "train", videos=4)
    trace = tmp_path / "trace.json"
    assert main([*TINY, f"--data.train={tmp_path / 'train'}", f"--trace={trace}"]) == 0
    printed = capsys.readouterr().out
    assert ("random features" in printed) != stored
    for phase in ("data wait", "forward", "losses", "of which matching", "backward", "optimizer"):
        assert phase in printed
    assert "aten::" in printed
    events = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
    assert {"forward", "matching", "backward"} <= events


def test_phases_add_up_to_the_step(tmp_path, capsys):
    assert main([*TINY, f"--trace={tmp_path / 'trace.json'}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    shares = {
        line[: line.rindex(".") - 7].strip(): float(line.split()[-1].rstrip("%"))
        for line in lines
        if line.rstrip().endswith("%") and "aten" not in line
    }
    assert 95 < sum(v for k, v in shares.items() if "whole" not in k and "of which" not in k) < 105
