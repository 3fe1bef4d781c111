"""Extract frozen features of videos and sentences into shards, on this machine or a Ray cluster."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from data_pipeline.config import ExtractionConfig
from launch.job_report import run_job
from trainer.cli import command, parse_config
from trainer.config import TrackingConfig

UNTRACKED = TrackingConfig(mlflow=False)


@dataclass(frozen=True, kw_only=True)
class Command(ExtractionConfig):
    """Extraction, as the command line asks for it.

    Attributes:
        tracking: where the progress is recorded, MLflow only where it is set to true; by default on
            the terminal and in summary.json alone
    """

    tracking: TrackingConfig = UNTRACKED


@command
def main(args: Sequence[str] | None = None) -> int:
    """Make what is missing of a feature set; status 1 if more videos fail than allowed."""
    config = parse_config(Command, args, __doc__)
    from data_pipeline.extraction.extraction import extract

    tracking = None if config.tracking == UNTRACKED else config.tracking
    return run_job(config, lambda report: extract(config, report), tracking)


if __name__ == "__main__":
    sys.exit(main())
