"""Send what MLflow has not got of a run: after an outage, or because it was trained without.

    MLFLOW_TRACKING_URI=https://mlflow.example.org python -m launch.track runs/first

Can be repeated: what the server has is not sent twice. Works as well for a server that has never
seen the run.
"""

import os
import sys
from pathlib import Path

from data_pipeline.errors import InputError
from trainer.cli import command, make_parser, parse
from trainer.tracking import delivery
from trainer.tracking.delivery import Delivery
from trainer.tracking.outages import fault_of
from trainer.tracking.tracking import RunRecord, redact, store_uri


@command
def main(args: list[str] | None = None) -> None:
    """Deliver the run's records, files and status once, and say where they are."""
    parser = make_parser(__doc__)
    parser.add_argument("run", type=Path, help="folder of the run")
    folder: Path = parse(parser, args).run
    record = RunRecord.read(folder)
    if record is None:
        raise InputError(f"{folder / 'tracking.json'}: not found; give the folder of a run")
    try:
        lock = delivery.hold(folder, wait=False)
    except BlockingIOError as error:
        raise InputError(f"{folder}: is being trained, which delivers its records") from error
    os.environ.update(delivery.PATIENCE | os.environ)
    try:
        Delivery(folder, record).end()
    except Exception as error:  # MLflow, requests and SQLAlchemy share no class for this
        raise InputError(fault_of(error).line) from None
    finally:
        lock.close()
    print(f"MLflow at {redact(store_uri())} has all records of {folder}")


if __name__ == "__main__":
    sys.exit(main())
