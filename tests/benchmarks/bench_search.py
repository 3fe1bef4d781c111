"""How fast is an archive of a million clips indexed and searched, and is what was planted found?

    python -m tests.benchmarks.bench_search --clips 1000000
    python -m tests.benchmarks.bench_search --clips 10000000 --features false

Writes feature sets of videos of 75 clips, four layers of 768 numbers (6 kB a clip), each video of a
few scenes that are alike in all of them, and plants clips that the model, which is not trained,
projects beside a sentence. Then it reads the bytes that the index needs, builds the index, and asks
each planted sentence: exactly, by FAISS, and with the grounding of ten stretches of 75 clips. The
sentences are encoded already. Files that are there are kept. Without features the rows of the index
are drawn, and nothing is grounded. Seconds are of the wall and of the processor.
"""

import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jsonargparse
import numpy as np
import torch

from data_pipeline.extraction.encoding import SentenceFeatures
from data_pipeline.features.samples import Sample
from data_pipeline.features.shards import FeatureSet, Provenance, write_index
from data_pipeline.features.writing import ShardWriter, write_manifest
from launch.predict import spare_threads
from model.config import SDSTConfig
from model.kinds import build
from trainer.archive import approximate
from trainer.archive.approximate import train
from trainer.archive.archive import Archive
from trainer.archive.building import Source, add_sets
from trainer.archive.index import Index, IndexedSet, MadeWith
from trainer.archive.searching import candidates
from trainer.archive.writing import Row, writer
from trainer.cli import dump_config
from trainer.inference.predict import Grounder
from trainer.inference.pretrained import Export, encoder_of
from trainer.training.checkpoints import export

LAYERS, WIDTH, CLIPS, SCENES, PLANTED, TOKENS = 4, 768, 75, 400, 64, 12
MODEL = SDSTConfig(video_width=WIDTH, text_width=WIDTH, layers=(-1, -2, -3, -4))
MADE = Provenance(
    *("generated", None, (0, 1, 2, 3), "generated", None, (0, 1, 2, 3), None),
    *(2.0, 1, "none", "float32"),
    options={},
    version="test",
)


@dataclass
class Spent:
    """Seconds of the wall and of all processors."""

    wall: float = 0.0
    processor: float = 0.0

    def __str__(self) -> str:
        return f"{self.wall:.2f} s ({self.processor:.2f} s of processors)"


@contextmanager
def spending() -> Iterator[Spent]:
    """What is done inside costs so much."""
    spent, begin = Spent(), (time.perf_counter(), time.process_time())
    yield spent
    spent.wall, spent.processor = time.perf_counter() - begin[0], time.process_time() - begin[1]


def main(
    folder: Path = Path("/tmp/sdst-bench-search"),
    clips: int = 1_000_000,
    features: bool = True,
    kind: str = "sq8",
    probes: int = 20,
) -> None:
    """Print what indexing and searching cost.

    Args:
        folder: where sets and indexes go; it is kept
        clips: of the archive
        features: write features and build the index of them; else its rows are drawn
        kind: of FAISS, sq8 or ivfpq
        probes: sentences that are asked, at most the 64 that are planted
    """
    torch.set_num_threads(spare_threads())  # as launch.search does
    run = folder / "run"
    if not run.exists():
        torch.manual_seed(0)
        export(run / "model", build(MODEL), dump_config(Export(MODEL, encoder_of(MADE), MADE)))
    model = Source(run, "projected", None)
    words = sentences()
    asked = model.vectors.of_sentences(words)[:probes]
    index = folder / f"index-{clips}{'' if features else '-drawn'}"
    if features:
        place = folder / f"features-{clips}"
        if not (place / "manifest.json").exists():
            with spending() as spent:
                write_features(place, clips, planted_clips(model, words))
            print(f"features written in {spent}", flush=True)
        measure_building(FeatureSet(place), model, index)
    elif not (index / "index.json").exists():
        draw_rows(index, clips, model, asked)
    measure_search(index, run, asked, words[:probes], kind, grounded=features)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"memory, mapped rows that were touched among it: at most {peak:.2f} GB")


def sentences() -> list[SentenceFeatures]:
    """The planted ones, as an encoder would give them."""
    random = np.random.default_rng(7)
    shape = (PLANTED, TOKENS, LAYERS, WIDTH)
    return [SentenceFeatures(each, None) for each in random.normal(size=shape).astype(np.float16)]


def planted_clips(source: Source, words: list[SentenceFeatures]) -> np.ndarray:
    """(PLANTED, LAYERS, WIDTH) clips that the model puts beside the sentences."""
    wanted = torch.from_numpy(source.vectors.of_sentences(words))
    generator = torch.Generator().manual_seed(1)
    clips = torch.randn(PLANTED, 1, LAYERS, WIDTH, generator=generator).requires_grad_()
    adam = torch.optim.Adam([clips], 0.1)
    mask = torch.ones(PLANTED, 1, dtype=torch.bool)
    for _ in range(150):
        found = source.model.clip_vectors(clips, mask)[:, 0]
        loss = -(found * wanted).sum(-1).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    print(f"planted clips: mean cosine {-loss.item():.2f} with their sentences", flush=True)
    return clips.detach()[:, 0].numpy().astype(np.float16)


def place_of(number: int, videos: int) -> tuple[int, int]:
    """Video and clip at which a sentence is planted."""
    return (number * 2 + 1) * videos // (2 * PLANTED), (number * 7) % CLIPS


def write_features(folder: Path, clips: int, planted: np.ndarray) -> None:
    """Videos of five scenes, with the planted clips among them."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    scenes = random.normal(size=(SCENES, LAYERS, WIDTH)).astype(np.float32)
    noise = random.normal(0, 0.5, (64, CLIPS, LAYERS, WIDTH)).astype(np.float32)
    videos = -(-clips // CLIPS)
    where = {place_of(number, videos): number for number in range(PLANTED)}
    indexes = []
    for first in range(0, videos, 256):
        with ShardWriter(folder, f"{first // 256:05d}") as shard:
            for video in range(first, min(first + 256, videos)):
                shown = scenes[np.repeat(random.integers(SCENES, size=5), CLIPS // 5)]
                stored = (shown + noise[video % 64]).astype(np.float16)
                for (held, clip), number in where.items():
                    if held == video:
                        stored[clip] = planted[number]
                text = np.zeros((0, LAYERS, WIDTH), np.float16)
                shard.add(Sample(f"v{video:07d}", 2.0 * CLIPS, 2.0, stored, text, ()))
            indexes.append(shard.commit())
    about: dict[str, Any] = {"name": "generated", "sha256": "", "videos": 0, "queries": 0}
    write_manifest(folder, "archive", MADE, about, indexes)
    write_index(folder)


def measure_building(features: FeatureSet, source: Source, index: Path) -> None:
    """Read the bytes from the disk, then build, both from a disk that was not read before."""
    size = sum(features.path(n).size() for n in range(len(features.shards)))
    for warm in (False, True):
        forget(features) if not warm else None
        with spending() as read:
            for number in range(len(features.shards)):
                with open(features.path(number).local, "rb", buffering=0) as file:  # type: ignore[arg-type]
                    while file.read(1 << 24):
                        pass
        forget(features) if not warm else None
        for name in index.glob("*"):
            name.unlink()
        with (
            spending() as built,
            writer(index, str(source.folder), source.made_with(features)) as w,
        ):
            add_sets(w, [(features, None)], source.blocks)
        print(
            f"{size / 1e9:.2f} GB {'from memory' if warm else 'from the disk'}: read in {read}, "
            f"indexed in {built}: {read.wall / built.wall:.2f} of the speed",
            flush=True,
        )


def forget(features: FeatureSet) -> None:
    """Let the system drop what it holds of the shards."""
    for number in range(len(features.shards)):
        with open(features.path(number).local, "rb") as file:  # type: ignore[arg-type]
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def draw_rows(folder: Path, clips: int, source: Source, asked: np.ndarray) -> None:
    """An index of drawn rows, about as alike as clips are, with the planted ones among them."""
    random = np.random.default_rng(0)
    width = source.vectors.width
    scenes = random.normal(size=(SCENES * 16, width)).astype(np.float32)
    noise = random.normal(0, 0.5, (64, CLIPS, width)).astype(np.float32)
    videos = -(-clips // CLIPS)
    where = dict(place_of(number, videos) for number in range(len(asked)))
    numbers = {place_of(number, videos)[0]: number for number in range(len(asked))}
    made = MadeWith("projected", width, "drawn", "drawn", MADE)
    with writer(folder, str(source.folder), made) as target:
        with target.appending() as appender:
            for video in range(videos):
                rows = scenes[np.repeat(random.integers(len(scenes), size=5), CLIPS // 5)]
                rows = rows + noise[video % 64]
                if video in where:
                    rows[where[video]] = 4 * asked[numbers[video]] * np.sqrt(width)
                rows /= np.linalg.norm(rows, axis=1, keepdims=True)
                appender.add(0, Row(video, f"v{video:07d}", rows.astype(np.float16)))
            counted = appender.counted()
        sets = (IndexedSet("drawn", "drawn", whole=True),)
        target.commit(replace(counted, sets=sets))


def measure_search(
    folder: Path,
    run: Path,
    asked: np.ndarray,
    words: list[SentenceFeatures],
    kind: str,
    grounded: bool,
) -> None:
    """Each sentence by itself, exactly, by FAISS, and grounded."""
    with spending() as opened:
        index = Index(folder)
    print(f"{len(index)} clips of {len(index.videos)} videos, opened in {opened}", flush=True)
    right = [place_of(number, len(index.videos))[0] for number in range(len(asked))]
    tell("exactly", index, asked, right, lambda one: candidates(index, one, 10, CLIPS))
    with spending() as spent, writer(folder, "", None) as target:
        found = train(target, kind, drawn_sentences(index))  # type: ignore[arg-type]
    print(
        f"FAISS, {kind}: trained in {spent}; recall@100 {found.trained.recall:.3f}, recall@1 "
        f"{found.trained.first:.3f} with {found.trained.probes} cells, by {found.sentences} other "
        f"sentences and {found.lonely} that ask for lonely clips",
        flush=True,
    )
    search = approximate.approximately(Index(folder))
    tell(f"by FAISS, {kind}", index, asked, right, lambda one: search(one, 10, CLIPS))
    if grounded:
        measure_answers(folder, run, words)


def drawn_sentences(index: Index) -> np.ndarray:
    """As sentences lie, between what they are about and anything; none that is planted."""
    random = np.random.default_rng(3)
    about = index.vectors[random.integers(len(index), size=100)].astype(np.float32)
    other = random.normal(size=about.shape) / np.sqrt(about.shape[1])
    drawn = (about + random.uniform(0.5, 1.5, (100, 1)) * other).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def tell(
    name: str, index: Index, asked: np.ndarray, right: list[int], search: Callable[..., Any]
) -> None:
    """Ask each sentence twice, and print the second times."""
    for _ in range(2):
        times, first = [], 0
        with spending() as spent:
            for number, one in enumerate(asked):
                begin = time.perf_counter()
                (found,) = search(one[None])
                times.append(1000 * (time.perf_counter() - begin))
                first += found[0].video == right[number]
    print(
        f"{name}: p50 {np.percentile(times, 50):.1f} ms, p95 {np.percentile(times, 95):.1f} ms, "
        f"{1000 * spent.processor / len(asked):.1f} ms of processors a sentence; what was planted "
        f"comes first for {first} of {len(asked)}",
        flush=True,
    )


class Encoded:
    """Stands for a text encoder: the sentence is the number of a planted one."""

    provenance = MADE
    joint_width = None

    def __init__(self, words: list[SentenceFeatures]) -> None:
        self._words = words

    def encode_sentences(self, given: list[str], together: int = 1) -> list[SentenceFeatures]:
        """Nothing is left to do."""
        return [self._words[int(each)] for each in given]


def measure_answers(folder: Path, run: Path, words: list[SentenceFeatures]) -> None:
    """Sentences from the question to the moments of ten stretches."""
    source = Source(run, "projected", None)
    encoder: Any = Encoded(words)
    grounder = Grounder(source.model, encoder, source.export, "cpu")
    with spending() as opened:
        opened_archive = Archive(Index(folder), grounder, source.vectors, exact=True)
    print(f"archive with its feature sets opened in {opened}", flush=True)
    for _ in range(2):
        times, stages = [], []
        with spending() as spent:
            for number in range(len(words)):
                begin = time.perf_counter()
                (answer,) = opened_archive.search([str(number)], candidates=10)
                times.append(1000 * (time.perf_counter() - begin))
                stages.append(answer.seconds[1] * 1000)
    print(
        f"whole answer, exact search and ten stretches of {CLIPS} clips: p50 "
        f"{np.percentile(times, 50):.0f} ms, p95 {np.percentile(times, 95):.0f} ms (grounding p50 "
        f"{np.percentile(stages, 50):.0f} ms), {1000 * spent.processor / len(words):.0f} ms of "
        "processors",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(jsonargparse.auto_cli(main))
