"""Train, select, evaluate and track one experiment.

    sdst-train --config configs/quickstart.yaml --name my-run
    sdst-train --checkpoint runs/my-run --eval [--dump]
    accelerate launch trainer/main.py --config C ...    (several processes)

The run's folder gets the resolved config, metrics.jsonl, checkpoints, the exported model, and, at
the end, metrics.json, predictions.jsonl and report.html. Running the same command again resumes.

The second form only evaluates a run, a checkpoint or an exported model, on the splits
data.selection and data.report of the run's configuration, or of --config; an exported model says
itself what it is built of. --dump also writes its predictions, and for QVHighlights what its server
takes.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from data_pipeline.errors import InputError
from trainer.cli import command, load_config, parse_config
from trainer.config import Config


@command
def main(args: list[str] | None = None) -> int:
    """Read the command line, then train and report, or only evaluate.

    Exits with 0, with 75 after SIGTERM and 130 after Ctrl-C once a checkpoint is written, with 76
    when another process is lost, and with 2 for a fault of the user's.
    """
    request, args = evaluation_request(args)
    config = parse_config(Config, args, __doc__)
    # What computes is imported now: help and mistyped flags do not wait for PyTorch.
    if request:
        from trainer.judging.evaluate_checkpoint import evaluate_checkpoint

        evaluate_checkpoint(config, request.checkpoint, request.dump)
        return 0
    from trainer.experiment import carry_out

    return carry_out(config)


def evaluation_request(
    args: Sequence[str] | None,
) -> tuple[argparse.Namespace | None, list[str]]:
    """Take `--checkpoint P --eval [--dump]` out of a command line; the rest is configuration.

    They are no fields of the configuration, of which `eval` is a section.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--eval", action="store_true")
    parser.add_argument("--dump", action="store_true")
    try:
        given, rest = parser.parse_known_args(sys.argv[1:] if args is None else list(args))
    except argparse.ArgumentError as error:
        raise InputError(str(error)) from error
    if not given.eval:
        if given.checkpoint or given.dump:
            raise InputError(
                "--checkpoint and --dump go with --eval; a run goes on from its own folder"
            )
        return None, rest
    if given.checkpoint is None:
        raise InputError("--eval needs --checkpoint, the folder of a checkpoint or of a model")
    if not any(argument.partition("=")[0] == "--config" for argument in rest):
        rest = [*configured_by(given.checkpoint), *rest]
    files = [place for place, each in enumerate(rest) if each.partition("=")[0] == "--config"]
    after = files[-1] + 1 + (rest[files[-1]] == "--config") if files else 0
    # Over what a file says of models, under what the command line does.
    return given, [*rest[:after], *built_of(given.checkpoint), *rest[after:]]


def built_of(checkpoint: Path) -> list[str]:
    """The flags of the model that was exported to the folder `checkpoint`, but for the kernels that
    compute it; none of other folders."""
    from trainer.inference.pretrained import CONFIG, WEIGHTS, Export
    from trainer.training.checkpoints import STATE

    names = CONFIG, WEIGHTS
    if not all((checkpoint / name).is_file() for name in names) or (checkpoint / STATE).is_file():
        return []
    model = load_config(Export, checkpoint / CONFIG).model
    return [
        f"--model.{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in asdict(model).items()
        if name not in model.KERNELS
    ]


def configured_by(checkpoint: Path) -> list[str]:
    """The flags of the run that `checkpoint` belongs to: its folder, or one in it.

    None for what lies in no run's folder, as exported models may: those take flags alone.
    """
    place = checkpoint.resolve()
    # The run itself, its model/, or its checkpoints/step_...
    for folder in (place, place.parent, place.parent.parent):
        if (folder / "config.yaml").is_file() and (folder / "metrics.jsonl").is_file():
            where = ["--runs", str(folder.parent), "--name", folder.name]
            return ["--config", str(folder / "config.yaml"), *where]
    return []


if __name__ == "__main__":
    sys.exit(main())
