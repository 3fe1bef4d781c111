"""By which ways is the index of an archive read? Small true ones, with FAISS's cells of each kind.

index.json names the model and the sets, which lie beside the true ones and are not altered. Its
vectors have no checksum, which would have every search read all of them: they are read as they
stand, and what is found must make sense.
"""

import json
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from launch import index, search
from model.kinds import build
from tests.conftest import PROVENANCE, build_feature_set
from tests.fuzz.format import Format, Reader, one_of, plain_bytes
from tests.fuzz.mutations import mutate_arrays, mutate_json
from tests.fuzz.watch import Lie, run_command
from tests.trainer.archive.conftest import CONFIG, LONGEST, TopicEncoder, index_of
from trainer.archive import approximate
from trainer.archive.archive import Archive
from trainer.archive.cells import KINDS
from trainer.archive.index import Index
from trainer.archive.searching import Candidate, candidates
from trainer.archive.writing import writer
from trainer.cli import dump_config
from trainer.inference import predict
from trainer.inference.pretrained import Export, encoder_of
from trainer.training.checkpoints import export


def make_index(folder: Path) -> None:
    features = build_feature_set(folder / "set", videos=30, queries=1)
    build_feature_set(folder / "more", videos=2, queries=1, seed=7)
    torch.manual_seed(0)
    described = Export(CONFIG, encoder_of(PROVENANCE), PROVENANCE, max_clips=LONGEST)
    export(folder / "run" / "model", build(CONFIG), dump_config(described))
    index_of(folder / "sq8", folder / "run", features)
    shutil.copytree(folder / "sq8", folder / "ivfpq")
    for kind in KINDS:
        with (
            mock.patch.object(approximate, "FEWEST", 1),
            writer(folder / kind, "", None) as target,
        ):
            approximate.train(target, kind, questions(CONFIG.width))


def questions(width: int) -> Any:
    """A few directions."""
    drawn = np.random.default_rng(0).normal(size=(3, width)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def forge(draw: random.Random, folder: Path, root: Path) -> None:
    """Other arrays of cells, sealed as those that were written are."""
    place = folder / draw.choice(KINDS)
    (path,) = place.glob("faiss.*")
    path.write_bytes(mutate_arrays(draw, path.read_bytes(), root))
    name = approximate.named(path)
    path.rename(place / name)
    manifest = json.loads((place / "index.json").read_text())
    manifest["approximate"]["file"] = name
    if draw.random() < 0.3:
        manifest["approximate"]["kind"] = draw.choice(KINDS)
    (place / "index.json").write_text(json.dumps(manifest))


files = one_of(
    manifest=("*/index.json", mutate_json),
    again=("*/index.json", mutate_json),
    vectors=("*/vectors.*", plain_bytes),
    clips=("*/clips.*", plain_bytes),
    videos=("*/videos.*", plain_bytes),
    names=("*/names.*", plain_bytes),
    cells=("*/faiss.*", plain_bytes),
)


def alter(draw: random.Random, folder: Path, root: Path) -> None:
    (forge if draw.random() < 0.3 else files)(draw, folder, root)


def look(found: Index) -> None:
    """What a search takes from an index, every row of it."""
    asked = questions(found.vectors.shape[1])
    check(found, candidates(found, asked, 5, LONGEST), len(asked))
    for video in range(len(found.videos)):
        found.name(video).encode()


def check(found: Index, answers: list[list[Candidate]], asked: int) -> None:
    """Raise Lie unless these are stretches of the index's videos."""
    if len(answers) != asked:
        raise Lie(f"{len(answers)} answers to {asked} questions")
    for candidate in (each for answer in answers for each in answer):
        length = int(found.videos["clips"][candidate.video])
        if not (0 <= candidate.first < candidate.end <= length and np.isfinite(candidate.score)):
            raise Lie(f"found {candidate} of {length} clips")


def exactly(folder: Path) -> None:
    for kind in KINDS:
        look(Index(folder / kind))


def by_cells(folder: Path) -> None:
    for kind in KINDS:
        found = Index(folder / kind)
        asked = questions(found.vectors.shape[1])
        check(found, approximate.approximately(found)(asked, 5, LONGEST), len(asked))


@contextmanager
def encoder_at_hand() -> Iterator[None]:
    """Inside, sentences are encoded as those of the sets were."""
    encoder = lambda config: TopicEncoder(config, PROVENANCE)  # noqa: E731
    with mock.patch.object(predict, "FeatureEncoder", encoder):
        yield


def answer(folder: Path) -> None:
    with encoder_at_hand():
        for kind in KINDS:
            Archive.open(folder / kind).search("topic 3", top=3, candidates=4)


def ask(folder: Path) -> None:
    with encoder_at_hand():
        for kind in KINDS:
            flags = ["--json", str(folder / "found.json"), "--page", str(folder / "found.html")]
            run_command(search.main, [str(folder / kind), "topic 1", *flags])


def index_command(*args: str) -> Reader:
    def run(folder: Path) -> None:
        for kind in KINDS:
            given = [arg.format(folder=folder) for arg in args]
            run_command(index.main, ["--output", str(folder / kind), *given])
            look(Index(folder / kind))

    return run


INDEX = Format(
    make_index,
    alter,
    {
        "exactly": (exactly, 1),
        "by cells": (by_cells, 1),
        "answer": (answer, 0.5),
        "search": (ask, 0.1),
        "add": (index_command("--add", "{folder}/more"), 0.3),
        "remove": (index_command("--remove", "s0v3"), 0.5),
    },
)
