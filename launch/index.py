"""Make an archive searchable: vectors of every clip, from stored features, without decoding.

    python -m launch.index features/a features/b --model runs/quickstart --output index
    python -m launch.index --output index --add features/c
    python -m launch.index --output index --remove features/b beach_0042
    python -m launch.index --output index --approximate sq8

The same command goes on where it was stopped; what was finished stays searchable all the while.
launch.search asks. With RAY_ADDRESS the vectors are made on that cluster.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from data_pipeline.errors import InputError
from data_pipeline.output import check_folder
from trainer.cli import command, load_config, make_parser, parse, terminal

if TYPE_CHECKING:
    from data_pipeline.features.shards import FeatureSet
    from trainer.archive.building import Added, Blocks, Source

LEFT_OUT = 1
TOLD = 5  # faults that are printed, of any number


@command
def main(args: list[str] | None = None) -> int:
    """Read the command line and do the one thing it asks for."""
    parser = make_parser(__doc__)
    parser.add_argument("sets", nargs="*", type=str, help="feature sets, of launch.extract")
    parser.add_argument("--output", type=Path, required=True, help="folder of the index")
    parser.add_argument(
        "--model",
        type=Path | None,
        help="folder of a run or of its model; not needed for an index that has one",
    )
    parser.add_argument(
        "--vectors",
        type=str | None,
        choices=["projected", "joint"],
        help="the model's own projections (default), or what encoders that share a space stored",
    )
    parser.add_argument(
        "--videos",
        type=Path | None,
        help="folder of the sets' videos, for pictures and players; by default that of the run",
    )
    parser.add_argument("--add", nargs="+", type=str, help="feature sets to add to an index")
    parser.add_argument("--remove", nargs="+", type=str, help="sets, or ids of videos, to take out")
    parser.add_argument(
        "--approximate",
        type=str | None,
        choices=["ivfpq", "sq8"],
        help="train FAISS on an index of millions of clips, and measure it against exact search: "
        "small, or twice to four times as large and surer",
    )
    options = parse(parser, args)
    asked = [options.sets, options.add, options.remove, options.approximate]
    if sum(map(bool, asked)) != 1:
        raise InputError(
            "give feature sets to index, or one of --add, --remove and --approximate with an index"
        )
    if options.sets:
        check_folder(options.output)
    if options.remove:
        return _remove(options)
    if options.approximate:
        return _approximate(options)
    return _add(options)


def _add(options: Any) -> int:
    from data_pipeline.features.shards import FeatureSet
    from trainer.archive.building import Source, add_sets
    from trainer.archive.index import MANIFEST, read_manifest
    from trainer.archive.writing import writer

    there = (options.output / MANIFEST).exists()
    manifest = read_manifest(options.output) if there or options.add else None
    model = options.model or (Path(manifest.model) if manifest else None)
    if model is None:
        raise InputError(f"{options.output}: is a new index; name its model with --model")
    kind = options.vectors or (manifest.made_with.vectors if manifest else "projected")
    sets = [FeatureSet(path, skip_damaged=True) for path in options.sets or options.add]
    for one in sets[1:]:
        sets[0].check_same_features(one)
    source = Source(model, kind, sets[0].joint_width)
    made_with = source.made_with(sets[0])
    if manifest is not None and options.sets:
        _check_same_sets(options, [known.path for known in manifest.sets], sets)
    known = manifest.sets if manifest else ()
    videos = _videos_of(options, source) or next((each.videos for each in known), None)
    with writer(options.output, str(source.folder.resolve()), made_with) as target:
        before = target.manifest.videos
        with _blocks(source) as blocks, _progress() as progress:
            added = add_sets(target, [(each, videos) for each in sets], blocks, progress)
        _tell(options.output, added, before)
    return LEFT_OUT if added.faults else 0


def _check_same_sets(options: Any, known: list[str], sets: "list[FeatureSet]") -> None:
    """Raise InputError for a set that the index was not made with: adding is asked for by name."""
    for path in known:
        if path not in (given := [_path(each) for each in sets]):
            raise InputError(
                f"{options.output}: is an index of {path} too; --add {' '.join(given)} to it, or "
                "name another --output"
            )


def _path(features: "FeatureSet") -> str:
    local = features.folder.local
    return str(features.folder if local is None else local.resolve())


def _videos_of(options: Any, source: "Source") -> str | None:
    if options.videos is not None:
        if not options.videos.is_dir():
            raise InputError(f"--videos {options.videos}: no such folder")
        return str(options.videos.resolve())
    from trainer.config import Config

    run = source.folder.parent / "config.yaml"
    if not run.is_file():
        return None
    try:
        videos = load_config(Config, run).videos
    except InputError:  # the run's own business
        return None
    return str(videos.resolve()) if videos is not None and videos.is_dir() else None


@contextmanager
def _blocks(source: "Source") -> "Iterator[Blocks]":
    """Where vectors are made: here, or on the cluster that RAY_ADDRESS names."""
    if not os.environ.get("RAY_ADDRESS"):
        yield source.blocks
        return
    from trainer.archive.cluster import on_cluster

    with on_cluster(source) as blocks:
        yield blocks


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=terminal(stderr=True)) as progress:
        task = progress.add_task("videos", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _tell(output: Path, added: "Added", before: int) -> None:
    console = terminal()
    for line in added.faults[:TOLD]:
        console.print(f"left out: {line}", style="yellow", soft_wrap=True)
    there = f", {added.before} were there already" if added.before else ""
    left_out = f"; {len(added.faults)} left out" if added.faults else ""
    console.print(
        f"{output}: {added.videos} videos added, {added.clips} clips{there}{left_out}; "
        f"{before + added.videos} videos in all",
        soft_wrap=True,
    )


def _remove(options: Any) -> int:
    from trainer.archive.building import remove
    from trainer.archive.writing import writer

    with writer(options.output, "", None) as target:
        gone = remove(target, options.remove)
        terminal().print(
            f"{options.output}: {gone} videos taken out, {target.manifest.videos} are left",
            soft_wrap=True,
        )
    return 0


def _approximate(options: Any) -> int:
    from data_pipeline.features.shards import FeatureSet
    from trainer.archive.approximate import DRAWN, train
    from trainer.archive.building import Source, stored_sentences
    from trainer.archive.cells import library
    from trainer.archive.writing import writer

    library()  # before the work
    with writer(options.output, "", None) as target:
        manifest = target.manifest
        sets = [FeatureSet(each.path, skip_damaged=True) for each in manifest.sets]
        joint = sets[0].joint_width if sets else None
        source = Source(options.model or Path(manifest.model), manifest.made_with.vectors, joint)
        sentences = stored_sentences(sets, source.vectors, DRAWN)
        found = train(target, options.approximate, sentences)
    asked = f"{found.sentences} {'sentences' if len(sentences) else 'clips, turned away,'}"
    terminal().print(
        f"{options.output}: {found.trained.kind} of {found.trained.rows} clips finds "
        f"{found.trained.recall:.1%} of the best 100 of an exact search by {asked}, and the very "
        f"first for {found.trained.first:.1%} of these or of {found.lonely} that ask for lonely "
        f"clips ({found.trained.probes} cells opened), in {found.milliseconds:.1f} ms a sentence; "
        f"exactly: {found.exactly:.1f} ms",
        soft_wrap=True,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
