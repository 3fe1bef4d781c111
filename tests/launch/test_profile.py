import json
from types import SimpleNamespace

import pytest
from rich.console import Console
from torch._C._autograd import DeviceType

from launch.profile import main, phase_table

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


def event(name, start, end, kernels=(), annotation=False, device=DeviceType.CPU):
    """What torch's profiler gives, in microseconds."""
    return SimpleNamespace(
        name=name,
        time_range=SimpleNamespace(start=start, end=end),
        kernels=[SimpleNamespace(duration=duration) for duration in kernels],
        is_user_annotation=annotation,
        device_type=device,
    )


def test_kernels_count_to_the_phase_that_asked_for_them(capsys):
    """Also those of the backward pass, which another thread asks for, and whenever they ran."""
    events = [
        event("ProfilerStep#3", 0, 10_000, annotation=True),
        event("forward", 1_000, 3_000, annotation=True),
        event("forward", 2_000, 9_000, annotation=True, device=DeviceType.CUDA),
        event("aten::mm", 1_500, 1_600, kernels=[4_000, 500]),
        event("losses", 3_000, 5_000, annotation=True),
        event("matching", 3_500, 4_500, annotation=True),
        event("aten::add", 3_600, 3_610, kernels=[250]),
        event("backward", 5_000, 8_000, annotation=True),
        event("aten::mm", 6_000, 6_100, kernels=[2_000]),
        event("aten::copy_", 9_000, 9_100, kernels=[1_000]),
    ]
    Console(width=80).print(phase_table(events, 1))
    rows = {
        line.split("  ")[0].strip() or line.split()[2]: line.split()[-1]
        for line in capsys.readouterr().out.splitlines()
        if line.rstrip()[-1:].isdigit()
    }
    assert rows == {
        "forward": "4.50",
        "losses": "0.25",
        "matching": "0.25",
        "backward": "2.00",
        "everything else": "1.00",
        "whole step": "7.75",
    }
