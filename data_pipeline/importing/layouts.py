"""Whose features lie in this folder? Its layout, its arrays and the length of its rows tell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from data_pipeline.annotations import Annotation
from data_pipeline.config import ImportConfig
from data_pipeline.errors import InputError
from data_pipeline.importing.features import Source, find_streams
from data_pipeline.importing.files import FeatureFileError
from data_pipeline.importing.streams import Names
from data_pipeline.untrusted import reading, shown

MEASURED = 16
"""Videos whose rows are compared with their annotated durations."""

TOLERANCE = 1.2
"""Factor by which rows times their seconds may differ from annotated durations, in the middle."""

LISTED = 8
"""Entries of a folder that a message names."""


@dataclass(frozen=True)
class Fit:
    """That a folder can be read by a preset, or why not.

    `place`: of its patterns the last that was needed, 0 for the first ones; `cut`: its maximum of
    rows cuts videos.
    """

    source: Source | None = None
    place: int = 0
    cut: bool = False
    missing: str = ""


def recognise(presets: Mapping[str, ImportConfig], annotations: Sequence[Annotation]) -> str:
    """The name of the preset whose layout the folder has.

    Raises InputError where there is none, saying what was looked for and what is there, or where
    there are several that would give other features.
    """
    fits = {name: try_preset(config, annotations) for name, config in presets.items()}
    # First patterns are a preset's own, others are what it can read besides.
    own = min((fit.place for fit in fits.values() if fit.source), default=0)
    found = [name for name, fit in fits.items() if fit.source and fit.place == own]
    same = {effect(presets[name], fits[name]) for name in found}
    if len(same) == 1:  # the one with a maximum of rows says more
        return min(found, key=lambda name: unlimited(presets[name]))
    config = next(iter(presets.values()))
    folder = config.video_dir or config.features
    assert folder is not None  # the configuration has seen to it
    if same:
        names = " or ".join(found)
        raise InputError(f"{folder}: could be read as {names}; say which with --preset")
    looked = "; ".join(f"{name} ({each.missing})" for name, each in fits.items())
    raise InputError(
        f"{folder}: none of the videos can be used: no known layout; found {contents(folder)}; "
        f"looked for {looked}; "
        "name the --preset whose settings fit, or write streams and text as configs/import has them"
    )


def try_preset(config: ImportConfig, annotations: Sequence[Annotation]) -> Fit:
    """Whether there are files of all of a preset's streams, which it can read."""
    try:
        source = find_streams(config, annotations)
    except InputError as error:
        return Fit(missing=str(error).partition(": ")[2])
    durations = {row.vid: row for row in annotations}
    seconds, cut, problem = [], False, ""
    for vid, row in durations.items():
        names = Names(vid, row.qid, row.query)
        if not all(stream.has(names) for stream in source.streams):
            continue
        try:
            if source.text.of_words:
                source.text.load_words([row.query])
            found = []
            for stream in (*source.streams, source.text):
                read = stream.read(names)
                width = read.values.shape[2]
                if stream.config.width not in (None, width):
                    raise FeatureFileError(f"{stream.name} is {width} wide", "other contents")
                found.append(read.found)
                cut |= read.found > len(read.values)
        except FeatureFileError as error:
            problem = problem or str(error).rpartition("/")[2]
            continue
        seconds.append(min(found[:-1]) * config.clip_length / row.duration)
        if len(seconds) == MEASURED:
            break
    if not seconds:
        return Fit(missing=problem or "no video has files of all streams")
    middle = float(np.median(seconds))
    if not config.spread and not 1 / TOLERANCE < middle < TOLERANCE:
        return Fit(missing=f"rows of {config.clip_length:g} s are {middle:.2g} of the durations")
    place = max(stream.place for stream in (*source.streams, source.text))
    return Fit(source, place, cut)


def effect(config: ImportConfig, fit: Fit) -> str:
    """What of a preset decides the features: equal texts, equal features."""
    assert fit.source is not None
    streams = [
        (stream.files, replace(stream.config, name=None, pattern="-", rows=None))
        for stream in (*fit.source.streams, fit.source.text)
    ]
    return repr((streams, config.clip_length, config.pooling, fit.cut))


def unlimited(config: ImportConfig) -> int:
    """How many of a preset's streams have no maximum of rows."""
    streams = [*config.streams, *([config.text] if config.text else [])]
    return sum(settings.get("rows") is None for settings in streams)


def contents(folder: Path) -> str:
    """The first entries of a folder, for a message."""
    with reading(folder):
        names = sorted(
            f"{path.name}/" if path.is_dir() else path.name for path in islice(folder.iterdir(), 99)
        )
    some = ", ".join(shown(name) for name in names[:LISTED]) or "nothing"
    return f"{some}{', …' if len(names) > LISTED else ''}"
