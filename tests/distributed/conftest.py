"""Ranks as processes of their own, and small runs for them."""

import json
import multiprocessing
import os
import re
import socket

import pytest
from safetensors.torch import load_file

from tests.distributed.program import rank_main

os.environ["DS_ACCELERATOR"] = "cpu"  # read when DeepSpeed is imported, by the server of the ranks


@pytest.fixture(scope="session")
def flags(tiny_run):
    """The flags of a run of 24 steps without dropout, whose draws depend on the number of ranks."""
    values = tiny_run | {
        "epochs": 4,
        "model.input_dropout": 0.0,
        "model.dropout": 0.0,
        "optim.lr": 0.001,
        "optim.averaging": 0.99,
        "eval.every": 4,
        "tracking.every": 1,
        "timeout": 60,
    }

    def build(**changes):
        return [f"--{key}={value}" for key, value in {**values, **changes}.items()]

    return build


class Ranks:
    """Runs `program.py` on several ranks at once.

    They are forked from a server that has imported everything, so that each begins at once.
    """

    def __init__(self, folder):
        self.folder, self.started = folder, []
        self._server = multiprocessing.get_context("forkserver")
        # Beside the program, what a rank would import as it goes on: seconds each.
        later = ["torch._dynamo", "transformers", "deepspeed.runtime.zero.muon.muon_optimizer"]
        modules = [*later, "accelerate.commands.launch", "tests.distributed.program"]
        self._server.set_forkserver_preload(modules)

    def start(self, flags, world=1, file=None, **environment):
        """Start the ranks of one run: (process, file of its output) each. Several are launched as
        `file` of configs/accelerate says, plain ones without."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        environment |= {"OMP_NUM_THREADS": "1"}
        if world > 1:
            environment |= {
                "WORLD_SIZE": str(world),
                "LOCAL_WORLD_SIZE": str(world),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
        flags = [*flags, f"--runs={self.folder}"]
        ranks = []
        for rank in range(world):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if world > 1 else {}
            log = self.folder / f"log-{len(self.started) + rank}"
            given = (flags, environment | own, log, file)
            process = self._server.Process(target=rank_main, args=given)
            process.start()
            ranks.append((process, log))
        self.started += [process for process, _ in ranks]
        return ranks

    def wait(self, ranks, seconds=400):
        """Exit codes and outputs of ranks that were started; None for one that does not end."""
        for process, _ in ranks:
            process.join(seconds)
        return [process.exitcode for process, _ in ranks], [log.read_text() for _, log in ranks]

    def run(self, *arguments, **options):
        """Start ranks and wait for them."""
        return self.wait(self.start(*arguments, **options))

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

    def noted(self, name):
        """What `program.py` noted of every step that any rank began, in all attempts of a run."""
        return [
            json.loads(line)
            for file in sorted((self.folder / name).glob("pairs-*.jsonl"))
            for line in file.read_text().splitlines()
        ]

    def pairs(self, name):
        """(step, qid) of everything that any rank was given, in all attempts of a run."""
        return [(record["step"], qid) for record in self.noted(name) for qid in record["qids"]]


@pytest.fixture
def ranks(tmp_path):
    ranks = Ranks(tmp_path)
    yield ranks
    for process in ranks.started:
        process.kill()


@pytest.fixture(scope="module")
def alone(flags, tmp_path_factory):
    """What every other run is compared with: one process, undisturbed, under the name "whole"."""
    ranks = Ranks(tmp_path_factory.mktemp("alone"))
    assert ranks.run(flags(name="whole"))[0] == [0]
    return ranks
