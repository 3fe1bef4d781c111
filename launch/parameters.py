"""How many trainable parameters does the model have, part by part?

python -m launch.parameters --width 256 --layers [-1,-2,-3,-4]
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from model.config import SDSTConfig
from trainer.cli import command, parse_config, terminal

if TYPE_CHECKING:
    from torch import nn


@command
def main(args: Sequence[str] | None = None) -> None:
    """Print the table for one model configuration; the flags are the fields of SDSTConfig."""
    config = parse_config(SDSTConfig, args, __doc__)
    from model.sdst.sdst import SDST

    rows = parameter_table(SDST(config))
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
