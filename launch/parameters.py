"""How many trainable parameters does the model have, part by part?

python -m launch.parameters --config configs/quickstart.yaml --model.width 256
python -m launch.parameters --model.kind qd_detr
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from trainer.cli import command, parse_config, terminal
from trainer.config import Config

if TYPE_CHECKING:
    from torch import nn


@command
def main(args: Sequence[str] | None = None) -> None:
    """Print the table for the model of an experiment."""
    config = parse_config(Config, args, __doc__)
    from model.kinds import build

    rows = parameter_table(build(config.model))
    total = sum(count for _, count in rows)
    table = Table("part", title="trainable parameters")
    table.add_column("count", justify="right")
    table.add_column("share", justify="right")
    for part, count in [*rows, ("total", total)]:
        table.add_row(part, f"{count:,}", f"{count / total:.1%}")
    terminal().print(table)


def parameter_table(model: "nn.Module", depth: int = 2) -> list[tuple[str, int]]:
    """Trainable parameters of each part, down to `depth` levels of modules: (dotted name, count).

    The counts add up to all of the model.
    """
    counts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = ".".join(name.split(".")[:-1][:depth])
            counts[part] = counts.get(part, 0) + parameter.numel()
    return list(counts.items())


if __name__ == "__main__":
    sys.exit(main())
