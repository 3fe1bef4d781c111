"""Import the features that SDST's or R2-Tuning's authors released into shards.

    python -m launch.import_features --video-dir vid_feats --text-dir txt_feats \
        --annotations highlight_train_release.jsonl --out features/train

Files are `<vid>.npz` and `<qid>.npz` (SDST) or `.npy` (R2-Tuning). Nothing is unpickled. Videos
without features are recorded in failures.jsonl; the same command goes on after a crash.
"""

import sys
from collections.abc import Sequence

from data_pipeline.config import ImportConfig
from data_pipeline.features.verify import verify
from launch.job_report import CONSOLE, run_job
from trainer.cli import command, parse_config

EXIT_FAULTS = 1


@command
def main(args: Sequence[str] | None = None) -> int:
    """Make what is missing of a feature set; status 1 if more videos fail than allowed."""
    given = sys.argv[1:] if args is None else args
    config = parse_config(ImportConfig, [_spelt(argument) for argument in given], __doc__)
    from data_pipeline.extraction.importing import import_features

    status = run_job(config, lambda report: import_features(config, report), None)
    faults = list(verify(config.output, config.annotations))
    for fault in faults:
        CONSOLE.print(f"error: {fault}")
    CONSOLE.print(f"{config.output}: read again, {len(faults)} faults")
    return EXIT_FAULTS if faults else status


def _spelt(argument: str) -> str:
    """`--out`, short for `--output`."""
    name, equals, value = argument.partition("=")
    return ("--output" if name == "--out" else name) + equals + value


if __name__ == "__main__":
    sys.exit(main())
