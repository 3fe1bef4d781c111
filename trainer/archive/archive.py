"""Find in an archive what a sentence describes: which video, which seconds.

archive = Archive.open("index")
for answer in archive.search(["a dog jumps into the water", "people wave"], top=10):
    for moment in answer.moments:
        print(answer.query, moment.video, moment.start, moment.end, moment.score)
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data_pipeline.errors import InputError
from data_pipeline.extraction.encoding import SentenceFeatures
from data_pipeline.features.samples import Damaged
from data_pipeline.features.shards import FeatureSet
from data_pipeline.storage import Location
from trainer.archive.approximate import approximately
from trainer.archive.building import architecture, check_features, set_hash
from trainer.archive.index import Index
from trainer.archive.searching import Candidate, candidates
from trainer.archive.vectors import Floats, Half, Vectors, padded
from trainer.inference.calibration import mean_odds
from trainer.inference.decode import decode
from trainer.inference.grounding import LISTED
from trainer.inference.postprocess import postprocess
from trainer.inference.predict import CLIPS_AT_ONCE, SENTENCES_AT_ONCE, Grounder
from trainer.inference.pretrained import WEIGHTS, find_model
from trainer.training.checkpoints import file_hash

CANDIDATES = 20
"""Stretches that a sentence is grounded in."""

FirstStage = Callable[[Floats, int, int], list[list[Candidate]]]
"""Sentences (Q, F), how many candidates, of how many clips at most -> those of each sentence."""


@dataclass(frozen=True)
class Moment:
    """Seconds [start, end) of a video, how sure the model is, and where the video's file may lie.

    existence: probability that the video shows it, None where the model does not judge that.
    """

    video: str
    start: float
    end: float
    score: float
    duration: float
    existence: float | None = None
    videos: str | None = None

    def to_row(self) -> dict[str, Any]:
        """JSON values, rounded to milliseconds."""
        return {
            "video": self.video,
            "start": round(self.start, 3),
            "end": round(self.end, 3),
            "score": round(self.score, 4),
        }


@dataclass(frozen=True)
class Answer:
    """What an archive shows of a sentence.

    moments: best first. candidates: (video, start, end, cosine) of the stretches that the model
    looked at, most like the sentence first. seconds: of the first stage and of the second. unread:
    tokens at the end of the sentence that the encoder does not read. existence: probability that
    any of the stretches shows it, None where the model does not judge that; below `least` it is not
    found, nor in a video that is less sure by itself. damaged: lines for the stretches that cannot
    be read.
    """

    query: str
    moments: tuple[Moment, ...]
    candidates: tuple[tuple[str, float, float, float], ...]
    seconds: tuple[float, float]
    unread: int = 0
    existence: float | None = None
    least: float = 0.5
    damaged: tuple[str, ...] = ()

    @property
    def listed(self) -> tuple[Moment, ...]:
        """The moments in which it is found."""
        if self.existence is not None and self.existence < self.least:
            return ()
        return tuple(
            moment
            for moment in self.moments
            if moment.score >= LISTED
            and (moment.existence is None or moment.existence >= self.least)
        )

    @property
    def not_found(self) -> str:
        """Why nothing is listed, in words; empty where something is."""
        if self.listed:
            return ""
        if self.existence is None or self.existence >= self.least:
            return "not found"
        return f"not found: {self.existence:.1%} sure that any video shows it"


@dataclass(frozen=True)
class _Seen:
    """Windows (n, 3) that the model found in a stretch of a video, and the stretch's existence."""

    video: int
    duration: float
    windows: NDArray[np.float64]
    existence: float | None


def _surest(seen: Sequence[_Seen]) -> float | None:
    return max((each.existence for each in seen if each.existence is not None), default=None)


class Archive:
    """An index with the model that it was made by, and the features that it was made of."""

    def __init__(
        self, index: Index, grounder: Grounder, vectors: Vectors, exact: bool = True
    ) -> None:
        self.index = index
        self.grounder = grounder
        self._vectors = vectors
        self._sets = [self._open(number) for number in range(len(index.manifest.sets))]
        self.first_stage: FirstStage = self._exactly if exact else approximately(index)

    @classmethod
    def open(
        cls,
        index: str | Path,
        model: str | Path | None = None,
        device: str | None = None,
        exact: bool = False,
    ) -> "Archive":
        """Open an index; `model` is the one it was made by, by default where it lay then.

        Where FAISS was trained on the index, it searches, unless `exact` is asked for.

        Raises InputError for what is no index, another model than the index's, and a set of
        features that is gone or has changed.
        """
        opened = Index(Path(index))
        made = opened.manifest.made_with
        folder = find_model(Path(model or opened.manifest.model))
        if file_hash(folder / WEIGHTS) != made.weights:
            raise InputError(
                f"{index}: was made with other weights than those in {folder}; name its model with "
                "--model, or make another index with this one"
            )
        grounder = Grounder.from_pretrained(folder, device)
        export = grounder.export
        if architecture(export.model) != made.architecture:
            raise InputError(
                f"{index}: was made with another configuration than {folder}'s; make it again"
            )
        joint = made.width if made.vectors == "joint" else None
        vectors = Vectors(grounder.model, export.max_clips, made.vectors, joint)
        if vectors.width != made.width:
            raise InputError(f"{index}: its vectors are {made.width} wide, {folder}'s are not")
        return cls(opened, grounder, vectors, exact or not opened.manifest.approximate)

    def search(
        self, sentences: str | Sequence[str], top: int = 10, candidates: int = CANDIDATES
    ) -> list[Answer]:
        """The `top` moments for each sentence, from the `candidates` most promising stretches.

        A stored video that is damaged is passed over, and told by the answer. Raises InputError for
        an empty sentence.
        """
        asked = [sentences] if isinstance(sentences, str) else list(sentences)
        for number, sentence in enumerate(asked, start=1):
            if not sentence.strip():
                raise InputError(f"query {number} is empty; write what to look for")
        if top < 1 or candidates < 1:
            raise InputError("top and candidates must be at least 1")
        texts = self.grounder.encoder.encode_sentences(asked, SENTENCES_AT_ONCE)
        begin = time.perf_counter()
        vectors = self._vectors.of_sentences(texts) if texts else np.empty((0, 0), np.float32)
        longest = self.grounder.export.max_clips
        found = self.first_stage(vectors, candidates, longest) if len(vectors) else []
        first = (time.perf_counter() - begin) / max(1, len(asked))
        answers = []
        for query, text, stretches in zip(asked, texts, found, strict=True):
            begin = time.perf_counter()
            damaged: list[str] = []
            moments, existence = self._ground(text, stretches, damaged)
            second = time.perf_counter() - begin
            answers.append(
                Answer(
                    query,
                    moments[:top],
                    candidates=tuple(self._told(each) for each in stretches),
                    seconds=(first, second),
                    unread=text.unread,
                    existence=existence,
                    least=self.grounder.export.calibration.threshold_of_search,
                    damaged=tuple(damaged),
                )
            )
        return answers

    def folders(self, video: str) -> list[str | None]:
        """Where the files of videos of this id may lie; one entry for each of them."""
        rows = self.index.videos["set"][self.index.known([video])]
        return [self.index.manifest.sets[int(number)].videos for number in rows]

    def _exactly(self, sentences: Floats, count: int, longest: int) -> list[list[Candidate]]:
        return candidates(self.index, sentences, count, longest)

    def _told(self, candidate: Candidate) -> tuple[str, float, float, float]:
        length = self._clip_length
        name = self.index.name(candidate.video)
        return name, candidate.first * length, candidate.end * length, candidate.score

    @property
    def _clip_length(self) -> float:
        return self.index.manifest.made_with.features.clip_length

    def _open(self, number: int) -> FeatureSet:
        known = self.index.manifest.sets[number]
        if not (Location(known.path) / "manifest.json").is_file():
            raise InputError(
                f"{known.path}: is not there any more; launch.index --add it where it lies now"
            )
        features = FeatureSet(known.path, skip_damaged=True)
        if set_hash(features.folder) != known.manifest:
            raise InputError(
                f"{known.path}: has changed since it was indexed; launch.index --remove it, then "
                "--add it"
            )
        check_features(features, self.grounder.export, Path(self.index.manifest.model))
        return features

    def _ground(
        self, text: SentenceFeatures, stretches: Sequence[Candidate], damaged: list[str]
    ) -> tuple[tuple[Moment, ...], float | None]:
        """The moments of a sentence in all the stretches, best first, and the existence."""
        config = self.grounder.export.postprocess
        by_video: dict[int, list[_Seen]] = {}
        for each in self._look(text, stretches, damaged):
            by_video.setdefault(each.video, []).append(each)
        moments: list[Moment] = []
        for video, seen in by_video.items():
            windows = np.concatenate([each.windows for each in seen])
            # Near-duplicates help a benchmark, not a reader.
            keep = replace(config, demote=False, keep=config.keep * len(seen))
            (kept,) = postprocess(windows[None], [seen[0].duration], keep)
            known = self.index.manifest.sets[int(self.index.videos["set"][video])]
            about = seen[0].duration, _surest(seen), known.videos
            moments += [
                Moment(self.index.name(video), float(start), float(end), float(score), *about)
                for start, end, score in kept
            ]
        ranked = tuple(sorted(moments, key=lambda moment: -moment.score))
        judged = [
            s.existence for seen in by_video.values() for s in seen if s.existence is not None
        ]
        return ranked, float(mean_odds(np.array(judged))) if judged else None

    @torch.inference_mode()
    def _look(
        self, text: SentenceFeatures, stretches: Sequence[Candidate], damaged: list[str]
    ) -> Iterator[_Seen]:
        """What the model sees of a sentence in each of the stretches, some of them at once. Lines
        for those that cannot be read go to `damaged`."""
        grounder, length = self.grounder, self._clip_length
        words = torch.from_numpy(text.features).to(grounder.device).float()  # (T, K, Dt)
        together = max(1, CLIPS_AT_ONCE // grounder.export.max_clips)
        for place in range(0, len(stretches), together):
            some, read = [], []
            for each in stretches[place : place + together]:
                try:
                    read.append(self._read(each))
                    some.append(each)
                except Damaged as error:
                    damaged.append(str(error))
            if not some:
                continue
            clips, mask = (each.to(grounder.device) for each in padded([c for c, _ in read]))
            asked = words.expand(len(some), *words.shape)  # (B, T, K, Dt)
            asked_mask = torch.ones(asked.shape[:2], dtype=torch.bool, device=grounder.device)
            prediction = grounder.model(clips.float(), mask, asked, asked_mask)
            spans = mask.sum(1) * length  # (B,)
            ends = [
                min(float(span), duration - each.first * length)
                for span, each, (_, duration) in zip(spans, some, read, strict=True)
            ]
            decoded = decode(prediction, mask, spans, ends)
            found, existence = grounder.export.calibration.comparable(decoded)
            for row, each in enumerate(some):
                offset = each.first * length
                yield _Seen(
                    each.video,
                    read[row][1],
                    found[row][decoded.real[row]] + np.array([offset, offset, 0.0]),
                    None if existence is None else float(existence[row]),
                )

    def _read(self, candidate: Candidate) -> tuple[Half, float]:
        """The features of a stretch (l, K, Dv), and the duration of its video."""
        row = self.index.videos[candidate.video]
        features = self._sets[int(row["set"])]
        number = int(row["sample"])
        name = self.index.name(candidate.video)
        if not number < len(features):
            raise InputError(f"{features.folder}: holds no video {name!r} where the index says")
        sample = features.read(number)
        if sample.vid != name or len(sample.video) != int(row["clips"]):
            raise InputError(
                f"{features.folder}: holds another video where the index says {name!r}"
            )
        return sample.video[candidate.first : candidate.end], sample.duration
