"""Import features that others released into shards.

    python -m launch.import_features --preset moment-detr --features DIR \
        --annotations highlight_train_release.jsonl --out features/train

The presets are the files of configs/import; without one, that is taken whose layout the folder has,
and which encoders made the features is recorded as unknown, where only the preset would say it.
For any other layout write `streams` and `text` as they do, in a YAML file, and give it with
`--config`. Nothing is unpickled. Videos without features are recorded in failures.jsonl; the same
command goes on after a crash.
"""

import contextlib
import dataclasses
import difflib
import sys
from collections.abc import Sequence
from pathlib import Path

import configs
from data_pipeline.config import ImportConfig
from data_pipeline.errors import InputError
from data_pipeline.features.shards import UNKNOWN
from data_pipeline.features.verify import verify
from launch.job_report import CONSOLE, run_job
from trainer.cli import command, parse_config

EXIT_FAULTS = 1

PRESETS = Path(configs.__file__).parent / "import"


@command
def main(args: Sequence[str] | None = None) -> int:
    """Make what is missing of a feature set; status 1 if more videos fail than allowed."""
    given = [_spelt(argument) for argument in (sys.argv[1:] if args is None else args)]
    config = parse_config(ImportConfig, given, __doc__)
    if config.preset is not None:
        config = with_preset(config.preset, given)
    elif not config.streams and config.text is None:
        told, config = config, with_preset(recognised(config, given), given)
        CONSOLE.print(f"{config.features or config.video_dir}: has the layout of {config.preset}")
        claimed = (config.video_encoder, config.text_encoder)
        if claimed != (told.video_encoder, told.text_encoder):
            CONSOLE.print(
                f"which encoders made them is not known: if they are those of {config.preset}, "
                f"give --preset {config.preset}, else --video-encoder and --text-encoder"
            )
            config = without_claims(config, told)
    from data_pipeline.importing.features import import_features

    status = run_job(config, lambda report: import_features(config, report), None)
    faults = list(verify(config.output, config.annotations))
    for fault in faults:
        CONSOLE.print(f"error: {fault}")
    CONSOLE.print(f"{config.output}: read again, {len(faults)} faults")
    return EXIT_FAULTS if faults else status


def with_preset(name: str, given: Sequence[str]) -> ImportConfig:
    """The settings of a preset, and what the command line says beside it."""
    path = PRESETS / f"{name}.yaml"
    if path.name not in {known.name for known in PRESETS.glob("*.yaml")}:
        names = sorted(known.stem for known in PRESETS.glob("*.yaml"))
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"
        raise InputError(f"preset {name!r} is unknown; {hint}")
    config = parse_config(ImportConfig, ["--config", str(path), *given], __doc__)
    return dataclasses.replace(config, preset=name)


def without_claims(config: ImportConfig, told: ImportConfig) -> ImportConfig:
    """A preset's settings without what it says of encoders, but for what the command line `told`.

    A layout says how files are read; anybody's features may have it.
    """
    return dataclasses.replace(
        config,
        video_encoder=told.video_encoder or UNKNOWN,
        text_encoder=told.text_encoder or UNKNOWN,
        video_depth=told.video_depth,
        text_depth=told.text_depth,
        frames_per_clip=told.frames_per_clip,
    )


def recognised(config: ImportConfig, given: Sequence[str]) -> str:
    """The preset whose layout the folder of the command line has."""
    from data_pipeline.annotations import read_annotations
    from data_pipeline.importing.layouts import recognise

    presets: dict[str, ImportConfig] = {}
    for path in sorted(PRESETS.glob("*.yaml")):
        # With --video-dir, presets of several streams are refused: each has a folder.
        with contextlib.suppress(InputError):
            presets[path.stem] = with_preset(path.stem, given)
    return recognise(presets, read_annotations(config.annotations))


def _spelt(argument: str) -> str:
    """`--out`, short for `--output`."""
    name, equals, value = argument.partition("=")
    return ("--output" if name == "--out" else name) + equals + value


if __name__ == "__main__":
    sys.exit(main())
