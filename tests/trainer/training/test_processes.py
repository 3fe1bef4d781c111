"""A launch that became another one than was asked for is refused in one line."""

import pytest
from accelerate import Accelerator

from trainer.main import main


@pytest.mark.parametrize(
    ("environment", "flags", "message"),
    [
        (
            {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_USE_CPU": "true"},
            {},
            "ACCELERATE_USE_CPU makes Accelerate ignore DeepSpeed",
        ),
        ({"ACCELERATE_USE_FSDP": "true"}, {}, "FSDP is not supported"),
        (
            {"TORCHELASTIC_MAX_RESTARTS": "3", "TORCHELASTIC_USE_AGENT_STORE": "True"},
            {},
            "set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1",
        ),
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, {}, "asks for mixed_precision bf16"),
        ({"WORLD_SIZE": "2"}, {}, "started 2 processes"),
        ({}, {"processes": 2}, "--processes 2 was asked for"),
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, {}, "4 accumulated batches"),
        ({}, {"data.batch_size": 9, "optim.accumulate": 2}, "must be a multiple of 1 process(es)"),
    ],
)
def test_a_launch_that_became_another_one_is_refused(
    command, monkeypatch, capsys, environment, flags, message
):
    Accelerator(cpu=True)  # what was got: one process, whatever is asked for below
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main(command(**flags)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_a_run_says_what_takes_part_and_how_it_computes(command, capsys):
    assert main(command(epochs=1)) == 0
    out = capsys.readouterr().out
    assert "1 process(es) on 1 host(s), undistributed, alone, cpu" in out
    assert "8 pairs a step = 1 process(es) x 1 accumulated x 8" in out
