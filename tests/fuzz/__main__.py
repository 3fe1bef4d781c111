"""Alter files of every format, read them by every way, and count how that ends.

    python -m tests.fuzz --seed 1 --cases 20000
    python -m tests.fuzz --seed 1 --only shards --case 1234     # one case again, with its trace

Refused is one line that names the fault; accepted is read, as it was written where a format is
sealed. Status 1 if there is a trace, an unclear refusal, a silent difference, a hang (over 20 s),
a crash, or if anything ran or was touched outside of the case's folder. Ctrl-C ends it with the
table of what was counted until then.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.campaign import campaign, make_seeds, run_case, table
from tests.fuzz.formats import FORMATS
from trainer.cli import command, make_parser, parse


@command
def main(args: list[str] | None = None) -> int:
    """Run the campaign and print its table."""
    parser = make_parser(__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn")
    parser.add_argument("--cases", type=int, default=20_000, help="of all formats together")
    parser.add_argument("--only", type=str | None, help="one format")
    parser.add_argument("--case", type=int | None, help="only this case of --only, in this process")
    parser.add_argument(
        "--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes"
    )
    given = parse(parser, args)
    names = [given.only] if given.only else list(FORMATS)
    with tempfile.TemporaryDirectory(prefix="fuzz") as root:
        make_seeds(Path(root), names)
        if given.case is not None:
            run_case(Path(root), given.only, given.seed, given.case, None)
            return 0
        begin = time.perf_counter()
        tables, faults = campaign(Path(root), names, given.seed, given.cases, given.workers)
        print(table(tables))
        print(f"\nseed {given.seed}, {time.perf_counter() - begin:.0f} s")
        for (name, kind, what), places in sorted(faults.items()):
            shown = ", ".join(map(str, places[:3]))
            print(f"{kind}: {name}, {len(places)} cases ({shown}): {what}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
