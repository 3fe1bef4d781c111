"""What does a GPU show of this revision? Each part is a process with a time limit of its own.

    OUT=folder tests/gpu/everything.sh [part ...]

A part that fails, or runs out of time, is recorded with the end of what it said; the rest goes on.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from data_pipeline.output import write_text

ALL = 585
"""Seconds for everything."""
PATIENCE = 5
"""Times as long may a part take where there is no GPU to give back."""
SAID = 4000
"""Characters that are kept of what a part said last."""
RATE = re.compile(r"([\d.,]+) pairs/s")
ABSENT = {
    "graph": "the step as one CUDA graph is not part of this revision: no GPU has shown it",
    "torchcodec": "decoding on the GPU is not part of this revision: no GPU has shown it",
}


@dataclass(frozen=True)
class Part:
    """Commands that are run one after the other, in `limit` seconds together."""

    name: str
    limit: int
    commands: tuple[tuple[str, ...], ...]
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """How a part ended: ok, failed, out of time, or absent; with the rates that it told."""

    name: str
    status: str
    seconds: float = 0.0
    pairs_per_second: tuple[float, ...] = ()
    said: str = ""


def parts(gpu: bool, work: Path) -> list[Part]:
    """The parts in their order; `work` is a folder for what they make."""
    python = sys.executable
    config = "configs/qvhighlights/sdst.yaml"
    made = ["--data.train", str(work / "train"), "--data.order.lanes", "8"]
    tiny: list[str] = []
    for key, value in {"width": 32, "heads": 4, "queries": 5, "roi_bins": 4}.items():
        tiny += [f"--model.{key}", str(value)]
    tiny += ["--data.batch_size", "8", "--data.workers", "0"]
    size = [] if gpu else tiny
    fast = ["--precision", "bf16", "--model.deformable_kernel", "triton"] if gpu else []
    matching = ["--loss.matching_kernel", "triton"] if gpu else []
    shapes = ["--data.shapes.clips", "[75]", "--data.shapes.tokens", "[16, 24]"]
    shapes += ["--data.shapes.windows", "[8]"]
    steps = ["--steps", "25" if gpu else "1", "--trace", str(work / "trace.json")]
    trained = ["--runs", str(work / "runs"), "--tracking.mlflow", "false"]

    def profile(*more: str) -> tuple[str, ...]:
        return python, "-m", "launch.profile", "--config", config, *size, *steps, *more

    def train(*more: str, launcher: Sequence[str] = ("trainer/main.py",)) -> tuple[str, ...]:
        splits = ("--data.selection", "null", "--data.report", "null")
        first = (python, *launcher, "--config", config, *size, *made, *splits, *trained)
        return (*first, *more)

    def zero(stage: int) -> tuple[str, ...]:
        words = ["-m", "accelerate.commands.accelerate_cli", "launch", "--quiet", "--config_file"]
        words += [f"configs/accelerate/zero{stage}.yaml", "--num_processes", "1", "trainer/main.py"]
        return train("--name", f"zero{stage}", "--epochs", "1", launcher=words)

    generated = (python, "-m", "tests.gpu.generated", "--folder", str(work))
    videos = (*generated, "--videos", "24" if gpu else "2", "--seconds", "30" if gpu else "4")
    tower = ("--tower", "true") if gpu else ()
    tests = ("tests/model/test_gpu.py", "tests/model/layers", "tests/model/objective")
    return [
        Part("tests", 120, ((python, "-m", "pytest", "-q", *(tests if gpu else tests[:1])),)),
        Part("profile", 30, (profile(*fast),)),
        Part("matching", 30, (profile(*fast, *matching),)),
        Part("features", 45, ((*generated, "--pairs", "2048" if gpu else "32"),)),
        Part(
            "bucketed",
            50,
            (
                profile(*fast, *matching, *made),
                profile(*fast, *matching, *made, *shapes),
                *((profile(*fast, *matching, *made, *shapes, "--compile", "true"),) * gpu),
            ),
        ),
        Part("resident", 30, (profile(*fast, *matching, *made, "--data.resident", "true"),)),
        # 2,048 pairs 425 times are QVHighlights' 0.87 million.
        Part("training", 100, (
            train("--name", "whole", "--epochs", "425" if gpu else "1", *fast, *matching),
        )),
        Part("extraction", 70, (
            (*videos, *tower),
            (python, "-m", "launch.extract", "--config", str(work / "extract.yaml")),
        )),
        Part(
            "zero",
            60,
            (zero(1), zero(2), zero(3)),
            {} if gpu else {"DS_ACCELERATOR": "cpu"},
        ),
        Part("compile", 50, (profile(*fast, *matching, "--compile", "true"),)),
    ]  # fmt: skip


def run(part: Part, limit: float) -> Result:
    """A part's commands; their whole process groups end with their time."""
    begin, said = time.monotonic(), ""
    for command in part.commands:
        left = limit - (time.monotonic() - begin)
        with tempfile.TemporaryFile("w+", errors="replace") as heard:
            process = subprocess.Popen(
                command,
                stdout=heard,
                stderr=subprocess.STDOUT,
                env=os.environ | part.environment,
                start_new_session=True,
            )
            try:
                code: int | None = process.wait(max(1.0, left))
            except subprocess.TimeoutExpired:
                code = None
                end(process)
            heard.seek(0)
            said += heard.read()
        if code != 0:
            break
    rates = tuple(float(found.replace(",", "")) for found in RATE.findall(said))
    status = {0: "ok", None: "out of time"}.get(code, f"failed ({code})")
    return Result(part.name, status, round(time.monotonic() - begin, 1), rates, said[-SAID:])


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask a process group to end, as a scheduler does, and make it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(8)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def device() -> str:
    """What the parts run on, in words."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    return "no GPU: small forms on the processor, which say nothing about speed"


def carry_out(
    todo: Sequence[Part], output: Path, seconds: float = ALL, patience: int = 1
) -> list[Result]:
    """Run the parts in order and keep `results.json` in `output` up to date.

    Of `seconds` for everything, and of every part's limit, there are `patience` times as many.
    """
    results = [Result(name, "absent", said=why) for name, why in ABSENT.items()]
    output.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    for part in todo:
        left = patience * seconds - (time.monotonic() - begin)
        result = (
            run(part, min(patience * part.limit, left))
            if left > 1
            else Result(part.name, "no time left")
        )
        results.append(result)
        print(f"{result.name}: {result.status}, {result.seconds} s, {result.pairs_per_second}")
        told = {"device": device(), "torch": torch.__version__, "parts": list(map(asdict, results))}
        write_text(output / "results.json", json.dumps(told, indent=1))
    return results


def main() -> int:
    """Run the named parts, or all; 1 if one of them did not end well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("part", nargs="*")
    options = parser.parse_args()
    print(device())
    with tempfile.TemporaryDirectory(prefix="gpu-") as folder:
        todo = parts(torch.cuda.is_available(), Path(folder))
        unknown = {*options.part} - {part.name for part in todo}
        if unknown:
            parser.error(f"no such part: {', '.join(sorted(unknown))}")
        chosen = [part for part in todo if not options.part or part.name in options.part]
        patience = 1 if torch.cuda.is_available() else PATIENCE
        results = carry_out(chosen, options.output.resolve(), ALL, patience)
    return int(any(result.status not in ("ok", "absent") for result in results))


if __name__ == "__main__":
    sys.exit(main())
