"""Ranks as processes of their own, and small runs for them."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def flags(make_features, tmp_path_factory):
    """The flags of a run of 24 steps without dropout, whose draws depend on the number of ranks."""
    folder = tmp_path_factory.mktemp("features")
    for seed, split in enumerate(("train", "dev", "val")):
        make_features(folder / split, videos=16 if split == "train" else 4, seed=seed)
    values = {
        "epochs": 4,
        "data.train": folder / "train",
        "data.selection": folder / "dev",
        "data.report": folder / "val",
        "data.batch_size": 8,
        "data.order.lanes": 8,
        "model.video_width": 12,
        "model.text_width": 10,
        "model.layers": "[-1, -2]",
        "model.width": 32,
        "model.heads": 4,
        "model.queries": 5,
        "model.input_dropout": 0.0,
        "model.dropout": 0.0,
        "optim.lr": 0.001,
        "optim.warmup": 5,
        "optim.averaging": 0.99,
        "eval.every": 4,
        "tracking.every": 1,
        "tracking.mlflow": "false",
        "timeout": 60,
    }

    def build(**changes):
        return [f"--{key}={value}" for key, value in {**values, **changes}.items()]

    return build


class Ranks:
    """Runs `program.py` on several ranks at once."""

    def __init__(self, folder):
        self.folder, self.started = folder, []

    def start(self, flags, world=1, zero=None, **environment):
        """Start the ranks of one run and return their processes; `zero` is a ZeRO stage."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        shared = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | environment
        if zero:
            shared |= {
                "ACCELERATE_USE_DEEPSPEED": "true",
                "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(
                    ROOT / f"configs/deepspeed/zero{zero}.json"
                ),
                "DS_ACCELERATOR": "cpu",
            }
        if world > 1 or zero:
            shared |= {
                "WORLD_SIZE": str(world),
                "LOCAL_WORLD_SIZE": str(world),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
        program = str(Path(__file__).with_name("program.py"))
        ranks = [
            subprocess.Popen(
                [sys.executable, program, *map(str, flags), f"--runs={self.folder}"],
                env=shared
                | ({"RANK": str(r), "LOCAL_RANK": str(r)} if "WORLD_SIZE" in shared else {}),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                cwd=ROOT,
            )
            for r in range(world)
        ]
        self.started += ranks
        return ranks

    def run(self, *arguments, **options):
        """Exit codes and outputs of the ranks."""
        ranks = self.start(*arguments, **options)
        outputs = [rank.communicate(timeout=400)[0] for rank in ranks]
        return [rank.returncode for rank in ranks], outputs

    def weights(self, name):
        """The newest weights of a run, without the biases that attention ignores.

        A bias of the keys adds the same to all logits of a query. Its gradient is rounding noise,
        which Adam scales up to whole steps.
        """
        whole = load_file(self.folder / name / "checkpoints" / "latest" / "weights.safetensors")
        return {key: value for key, value in whole.items() if not re.search("key.*bias", key)}

    def records(self, name, kind="train"):
        """The records of a run, the last of each step."""
        lines = (self.folder / name / "metrics.jsonl").read_text().splitlines()
        return {r["step"]: r for r in map(json.loads, lines) if r["kind"] == kind}

    def pairs(self, name):
        """(step, qid) of everything that any rank was given, in all attempts of a run."""
        lines = [
            line
            for file in sorted((self.folder / name).glob("pairs-*.jsonl"))
            for line in file.read_text().splitlines()
        ]
        return [
            (record["step"], qid) for record in map(json.loads, lines) for qid in record["qids"]
        ]


@pytest.fixture
def ranks(tmp_path):
    ranks = Ranks(tmp_path)
    yield ranks
    for process in ranks.started:
        process.kill()
