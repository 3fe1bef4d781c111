"""Which videos of which sets come into an index, and what becomes of those that cannot?"""

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import numpy as np

from data_pipeline.errors import InputError
from data_pipeline.extraction.encoding import SentenceFeatures
from data_pipeline.features.samples import Damaged, Sample
from data_pipeline.features.shards import FeatureSet
from data_pipeline.storage import Location
from model.config import ModelConfig
from trainer.archive.index import Index, IndexedSet, MadeWith
from trainer.archive.vectors import Floats, Kind, Stored, Vectors
from trainer.archive.writing import Appender, Row, Writer, known_set
from trainer.inference.pretrained import WEIGHTS, Export, find_model, load_pretrained
from trainer.training.checkpoints import file_hash

BLOCK = 64
"""Videos that are read and projected at a time."""

COMMIT_SECONDS = 5.0
"""Work that a kill may cost."""


@dataclass(frozen=True)
class Block:
    """Rows of the samples [first, end) of a set, and the faults of those that cannot be read."""

    first: int
    end: int
    rows: list[Row]
    faults: list[str]


Blocks = Callable[[FeatureSet, range], Iterable[Block]]
"""The blocks of some samples of a set, in order."""


@dataclass
class Added:
    """What came of an addition; `faults` are lines for those that could not be read."""

    videos: int = 0
    clips: int = 0
    before: int = 0
    faults: list[str] = field(default_factory=list)


class Source:
    """A model and what it makes of stored features."""

    def __init__(self, model: Path, kind: Kind, joint: int | None) -> None:
        self.folder = find_model(model)
        self.model, self.export = load_pretrained(self.folder)
        self.vectors = Vectors(self.model, self.export.max_clips, kind, joint)

    def made_with(self, features: FeatureSet) -> MadeWith:
        """What an index of these features depends on; InputError where the model knows others."""
        check_features(features, self.export, self.folder)
        return MadeWith(
            self.vectors.kind,
            self.vectors.width,
            file_hash(self.folder / WEIGHTS),
            architecture(self.export.model),
            features.provenance,
        )

    def blocks(self, features: FeatureSet, samples: range) -> Iterator[Block]:
        """`Blocks`; the next one is read while one is projected."""
        parts = [samples[i : i + BLOCK] for i in range(0, len(samples), BLOCK)]
        with ThreadPoolExecutor(1) as reader:
            waiting = [reader.submit(self._read, features, part) for part in parts[:1]]
            for number, part in enumerate(parts):
                stored, faults = waiting.pop().result()
                waiting += [
                    reader.submit(self._read, features, following)
                    for following in parts[number + 1 : number + 2]
                ]
                yield self._block(part, stored, faults)

    def block(self, features: FeatureSet, part: range) -> Block:
        """A single one."""
        return self._block(part, *self._read(features, part))

    def _read(
        self, features: FeatureSet, part: range
    ) -> tuple[list[tuple[int, Stored]], list[str]]:
        stored, faults = [], []
        for sample in part:
            try:
                stored.append((sample, self.vectors.read(features, sample)))
            except Damaged as error:
                faults.append(str(error))
        return stored, faults

    def _block(self, part: range, stored: list[tuple[int, Stored]], faults: list[str]) -> Block:
        rows = []
        for (sample, video), vectors in zip(
            stored, self.vectors.of_clips([video for _, video in stored]), strict=True
        ):
            if np.isfinite(vectors).all():
                rows.append(Row(sample, video.vid, vectors))
            else:
                faults.append(f"{features_name(video)}: its vectors are not finite")
        return Block(part.start, part.stop, rows, faults)


def features_name(video: Stored) -> str:
    """A video in a message."""
    return f"sample {video.vid!r}"


def architecture(model: ModelConfig) -> str:
    """A hash of what a model's configuration says, but for its kernels.

    What is as by default is left out: a setting that a later version adds changes nothing.
    """
    portable = model.portable()
    default = {field.name: field.default for field in fields(portable)}
    said = {name: v for name, v in asdict(portable).items() if v != default[name]}
    text = json.dumps({"kind": portable.kind} | said, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def check_features(features: FeatureSet, export: Export, folder: Path) -> None:
    """Raise InputError unless the model was trained on such features."""
    if differences := features.provenance.differences(export.features):
        raise InputError(
            f"{features.folder}: holds other features than {folder} was trained on "
            f"({differences[0]}); extract with its encoders, or name another --model"
        )


def add_sets(
    target: Writer,
    sets: Sequence[tuple[FeatureSet, str | None]],
    blocks: Blocks,
    progress: Callable[[int, int], None] | None = None,
) -> Added:
    """Add the videos of feature sets, each with the folder of its videos, that are not there yet.

    Goes on where an earlier addition of the same set was ended. A damaged sample is left out, and
    told. `progress` is told the samples that are done and their number.
    """
    added = Added()
    total = sum(len(features) for features, _ in sets)
    done = 0
    for features, videos in sets:
        number = _place(target, features, videos)
        start = target.manifest.sets[number].taken
        done += start
        index = Index(target.folder)
        with target.appending() as appender:
            last, faults = time.monotonic(), 0
            for block in blocks(features, range(start, len(features))):
                known = {index.name(v) for v in index.known([r.vid for r in block.rows]).tolist()}
                for row in block.rows:
                    if row.vid in known:
                        added.before += 1
                        continue
                    appender.add(number, row)
                    added.videos += 1
                    added.clips += len(row.vectors)
                added.faults += block.faults
                faults += len(block.faults)
                done += block.end - block.first
                if progress is not None:
                    progress(done, total)
                if time.monotonic() - last > COMMIT_SECONDS:
                    _commit(target, appender, number, block.end, faults)
                    last, faults = time.monotonic(), 0
            _commit(target, appender, number, len(features), faults, whole=True)
    return added


def _place(target: Writer, features: FeatureSet, videos: str | None) -> int:
    """The number of a set in the index, where it gets a place if it has none."""
    path = str(
        features.folder if features.folder.local is None else features.folder.local.resolve()
    )
    manifest = set_hash(features.folder)
    sets = list(target.manifest.sets)
    number = known_set(sets, path, manifest)
    if number is None:
        number = len(sets)
        sets.append(IndexedSet(path, manifest, videos))
    elif sets[number].manifest != manifest:
        raise InputError(
            f"{path}: has changed since it was indexed; --remove it first, then --add it"
        )
    else:
        old = sets[number]
        # What was removed of it comes back, what is there is passed over.
        if old.whole:
            old = replace(old, taken=0, left_out=0, whole=False)
        sets[number] = replace(old, path=path, videos=videos or old.videos)
    target.commit(replace(target.manifest, sets=tuple(sets)))
    return number


def _commit(
    target: Writer, appender: Appender, number: int, taken: int, faults: int, whole: bool = False
) -> None:
    sets = list(target.manifest.sets)
    left_out = sets[number].left_out + faults
    sets[number] = replace(sets[number], taken=taken, whole=whole, left_out=left_out)
    target.commit(replace(appender.counted(), sets=tuple(sets)))


def set_hash(folder: Location) -> str:
    """SHA-256 of a set's manifest, which holds those of its shards."""
    return hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()


def remove(target: Writer, names: Sequence[str]) -> int:
    """Leave out sets, named by their folders, and videos, named by their ids; how many videos.

    Raises InputError for a name of neither.
    """
    index = Index(target.folder)
    gone = np.zeros(len(index.videos), bool)
    sets: set[int] = set()
    for name in names:
        path = str(Path(name).resolve()) if "://" not in name else name
        numbers = [n for n, each in enumerate(index.manifest.sets) if each.path in (path, name)]
        sets.update(numbers)
        known = index.known([name])
        if not numbers and not len(known):
            raise InputError(f"{target.folder}: holds no set and no video called {name!r}")
        gone[known] = True
    gone |= np.isin(index.videos["set"], sorted(sets))
    target.remove(index, gone, sets)
    return int(gone.sum())


def stored_sentences(sets: Sequence[FeatureSet], vectors: Vectors, most: int) -> Floats:
    """Vectors (Q, F) of at most `most` sentences that the sets hold, of videos from all over them;
    none where they hold none."""
    texts: list[SentenceFeatures] = []
    for features in sets:
        step = max(1, len(features) * len(sets) // most)
        for index in range(0, len(features), step):
            with contextlib.suppress(Damaged):
                sample = features.read(index)
                texts += [_stored(sample, number) for number in range(len(sample.queries))][:1]
    return vectors.of_sentences(texts) if texts else np.empty((0, vectors.width), np.float32)


def _stored(sample: Sample, number: int) -> SentenceFeatures:
    words = np.array(sample.text[slice(*sample.queries[number].tokens)])
    joint = None if sample.joint is None else sample.joint[len(sample.video) + number]
    return SentenceFeatures(words, joint)
