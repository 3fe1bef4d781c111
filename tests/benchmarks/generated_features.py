"""Feature shards for real annotations whose videos are not at hand: the truth, hidden in noise.

python -m tests.benchmarks.generated_features --annotations highlight_val_release.jsonl \
    --output features/val --split val

Works for every annotation file that the project reads (QVHighlights, Charades-STA, TACoS ...). The
features are invented, the sentences, windows, saliency and durations are those of the file: what a
model scores on them compares models and proves the machinery, and says nothing about real videos.

A word stands for one of a few concepts, the axes of a latent space. A sentence is about the concept
of its longest word; its other words have tokens alike, which only a mark tells apart, and leave no
trace in the video. A clip shows

    the concepts of the windows that cover it, more strongly the more salient it is;
    elsewhere, for seconds on end, what other sentences are about, or nothing;
    a slow drift and fresh noise, both in the same latent space.

Each layer sees this through its own fixed projection: shallow layers faintly but sharply in time,
deep ones strongly but blurred over neighbouring clips.
"""

import hashlib
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.annotations import Annotation, read_annotations
from data_pipeline.config import ShardingConfig
from data_pipeline.extraction.encoding import package_version
from data_pipeline.extraction.plan import PlannedVideo, plan_shards
from data_pipeline.features.samples import Sample, StoredQuery
from data_pipeline.features.shards import FeatureSet, Provenance, write_index
from data_pipeline.features.writing import ShardWriter, write_manifest
from data_pipeline.storage import Location, remove_temporary
from data_pipeline.stream.batches import target_saliency
from data_pipeline.video.video import clip_count
from trainer.cli import command, parse_config

Floats = NDArray[np.float32]

END = "."  # the token after the last word


@dataclass(frozen=True)
class FeatureConfig:
    """What the invented encoders put out, and how hard they make it.

    Attributes:
        video_width, text_width: Dv and Dt
        layers: K
        clip_length: seconds
        concepts: dimensions of the latent space
        shallowest: strength of the trace in the shallowest layer; it is 1 in the deepest
        blur: clips on either side that the deepest layer mixes in; none in the shallowest
        drift: size of the slow drift along a concept's axis, in units of the trace
        noise: size of the noise of each clip and layer along a concept's axis
        text_noise: the same for the tokens, in units of a word's trace
        seed: of everything drawn; one seed gives one video the same features in every set
    """

    video_width: int = 768
    text_width: int = 1024
    layers: int = 4
    clip_length: float = 2.0
    concepts: int = 12
    shallowest: float = 0.5
    blur: int = 2
    drift: float = 0.1
    noise: float = 0.05
    text_noise: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.layers, self.concepts) < 1 or self.clip_length <= 0:
            raise ValueError(
                "features.layers and features.concepts must be at least 1, features.clip_length "
                "positive"
            )
        if min(self.video_width, self.text_width) <= self.concepts:
            raise ValueError(
                f"features.video_width and features.text_width must be more than {self.concepts}, "
                "the value of features.concepts"
            )


@dataclass(frozen=True)
class Command:
    """Attributes:
    annotations: JSONL file with the rows of a split
    output: folder of the feature shards
    split: its name
    videos: how many of the videos to take, a fair sample of them; default: all
    """

    annotations: Path
    output: Path
    split: str
    videos: int | None = None
    features: FeatureConfig = field(default_factory=FeatureConfig)
    sharding: ShardingConfig = field(default_factory=ShardingConfig)


@command
def main(args: Sequence[str] | None = None) -> None:
    """Write the shards of one split and say what they hold."""
    settings = parse_config(Command, args, __doc__)
    features = generate(
        read_annotations(settings.annotations),
        settings.output,
        settings.split,
        settings.features,
        settings.videos,
        settings.sharding,
        {"name": settings.annotations.name, "sha256": Location(settings.annotations).sha256()},
    )
    totals = features.manifest["totals"]
    print(
        f"{features.folder}: generated features of {totals['videos']} videos, "
        f"{totals['queries']} queries, {totals['clips']} clips, {totals['bytes'] / 2**20:.0f} MiB"
    )


def generate(
    annotations: Sequence[Annotation],
    folder: Path,
    split: str,
    config: FeatureConfig,
    videos: int | None = None,
    sharding: ShardingConfig | None = None,
    origin: dict[str, Any] | None = None,
) -> FeatureSet:
    """Write the features of `videos` of the annotated videos as the shards of a split."""
    folder.mkdir(parents=True, exist_ok=True)
    remove_temporary(Location(folder))
    world = World(config, [annotation.query for annotation in annotations])
    left = len(annotations) if videos is None else videos
    indexes = []
    for shard in plan_shards(annotations, sharding or ShardingConfig(), config.clip_length):
        chosen = shard.videos[:left]
        left -= len(chosen)
        if chosen:
            with ShardWriter(folder, shard.name) as writer:
                for video in chosen:
                    writer.add(world.sample(video))
                indexes.append(writer.commit())
    counts = {"videos": len({a.vid for a in annotations}), "queries": len(annotations)}
    source = (origin or {"name": "in memory", "sha256": ""}) | counts
    write_manifest(folder, split, provenance(config), source, indexes)
    return write_index(folder)


def absent(annotations: Sequence[Annotation], config: FeatureConfig) -> list[Annotation]:
    """As many sentences that a video does not show as are annotated with windows, of other videos
    and about other concepts than all of the video's own; fewer where there are none."""
    asked: dict[str, set[int]] = {}
    for row in annotations:
        asked.setdefault(row.vid, set()).add(concept(about(row.query), config.concepts))
    planted = []
    for row in annotations:
        if not row.windows:
            continue
        random = np.random.default_rng([config.seed, *_digest(f"{row.vid} {row.qid}")])
        for place in random.permutation(len(annotations)):
            query = annotations[place].query
            meant = concept(about(query), config.concepts)
            if meant not in asked[row.vid]:
                asked[row.vid].add(meant)  # each about something of its own
                qid = f"{row.qid}_absent"
                planted.append(Annotation(qid, query, row.vid, row.duration, windows=()))
                break
    return planted


def provenance(config: FeatureConfig) -> Provenance:
    """Says of the features that they were generated, and how."""
    layers = tuple(range(config.layers))
    elsewhere = {"video_width", "text_width", "layers", "clip_length"}  # they have their own place
    return Provenance(
        video_encoder="generated",
        video_weights=None,
        video_layers=layers,
        text_encoder="generated",
        text_weights=None,
        text_layers=layers,
        tokenizer=None,
        clip_length=config.clip_length,
        frames_per_clip=1,
        preprocessing="generated from the annotations, no video was read",
        arithmetic="float32",
        options={k: v for k, v in asdict(config).items() if k not in elsewhere},
        version=package_version(),
    )


class World:
    """Turns annotated videos into features; `sentences` are what its distractors say."""

    def __init__(self, config: FeatureConfig, sentences: Sequence[str]) -> None:
        self.config = config
        self._about = np.array([concept(about(text), config.concepts) for text in sentences])
        random = np.random.default_rng(config.seed)
        depth = np.linspace(0, 1, config.layers) if config.layers > 1 else np.ones(1)
        self._strength = config.shallowest + (1 - config.shallowest) * depth  # (K,)
        self._blur = np.round(config.blur * depth).astype(int)  # (K,) clips
        self._video = [_frame(random, config.video_width, config.concepts) for _ in depth]
        self._text = [_frame(random, config.text_width, config.concepts + 1) for _ in depth]

    def sample(self, video: PlannedVideo) -> Sample:
        """A video with all its queries: the same bytes whatever else is generated."""
        random = np.random.default_rng([self.config.seed, *_digest(video.vid)])
        duration = video.annotations[0].duration
        clips = clip_count(duration, self.config.clip_length)
        features = self._clips(random, self._scenes(random, video, clips))
        texts = [self._tokens(random, annotation.query) for annotation in video.annotations]
        ends = np.cumsum([len(text) for text in texts]).tolist()
        return Sample(
            vid=video.vid,
            duration=duration,
            clip_length=self.config.clip_length,
            video=features.astype(np.float16),
            text=np.concatenate(texts).astype(np.float16),
            queries=tuple(
                StoredQuery(annotation, (end - len(text), end))
                for annotation, text, end in zip(video.annotations, texts, ends, strict=True)
            ),
        )

    def _scenes(self, random: np.random.Generator, video: PlannedVideo, clips: int) -> Floats:
        """What each clip means, without drift and noise (L, E)."""
        length, axes = self.config.clip_length, np.eye(self.config.concepts, dtype=np.float32)
        asked = [concept(about(a.query), self.config.concepts) for a in video.annotations]
        true = np.zeros((clips, self.config.concepts), dtype=np.float32)
        covered = np.zeros(clips, dtype=np.float32)  # by how many sentences at once
        for annotation, own in zip(video.annotations, asked, strict=True):
            cover = _coverage(annotation, clips, length)
            gain = 0.5 + 0.5 * target_saliency(annotation, clips, length)
            true += (cover * gain)[:, None] * axes[own]
            covered += cover
        scenes = true / np.sqrt(np.maximum(covered, 1))[:, None]

        free = np.maximum(1 - covered, 0)[:, None]
        others = self._about[~np.isin(self._about, asked)]
        start = 0
        while start < clips:
            stop = start + max(1, round(random.uniform(4, 24) / length))
            if len(others) and random.random() < 0.8:
                scenes[start:stop] += free[start:stop] * 0.9 * axes[random.choice(others)]
            start = stop
        return scenes

    def _clips(self, random: np.random.Generator, scenes: Floats) -> Floats:
        """What the layers make of it: (L, E) -> (L, K, Dv)."""
        config, (clips, latent) = self.config, scenes.shape
        drift = config.drift * _slow(random, clips, latent, memory=40 / config.clip_length)
        layers = []
        for strength, blur, frame in zip(self._strength, self._blur, self._video, strict=True):
            seen = strength * _smooth(scenes + drift, blur)
            seen += config.noise * random.standard_normal(seen.shape, dtype=np.float32)
            # As much noise again, spread over all dimensions: no width is easier than another.
            beside = random.standard_normal((clips, config.video_width), dtype=np.float32)
            beside *= config.noise * (latent / config.video_width) ** 0.5
            layers.append(seen @ frame.T + beside)
        return np.stack(layers, axis=1)

    def _tokens(self, random: np.random.Generator, sentence: str) -> Floats:
        """A token for each word and one for the end of the sentence: (T, K, Dt)."""
        spoken, key = [*words(sentence), END], about(sentence)
        axes = np.eye(self.config.concepts)[[concept(w, self.config.concepts) for w in spoken]]
        mark = [[1.0 if word == key else -1.0] for word in spoken]  # (T, 1)
        meant = np.concatenate((axes, mark), axis=1, dtype=np.float32)  # (T, E + 1)
        layers = []
        for strength, frame in zip(self._strength, self._text, strict=True):
            noise = random.standard_normal(meant.shape, dtype=np.float32)
            layers.append((strength * meant + self.config.text_noise * noise) @ frame.T)
        return np.stack(layers, axis=1)


def words(sentence: str) -> list[str]:
    """The lower-case words of a sentence."""
    return re.findall(r"[a-z0-9']+", sentence.lower())


def about(sentence: str) -> str:
    """The word that says what a sentence is about: the longest, the first of several."""
    return max(words(sentence), key=len, default=END)


@cache
def concept(word: str, concepts: int) -> int:
    """The concept that a word stands for."""
    return int(_digest(word)[0]) % concepts


def _digest(text: str) -> list[int]:
    return list(np.frombuffer(hashlib.sha256(text.encode()).digest(), dtype=np.uint32))


def _frame(random: np.random.Generator, width: int, latent: int) -> Floats:
    """Orthonormal directions (D, E) in which a layer of width D holds the latent space."""
    return np.linalg.qr(random.standard_normal((width, latent)))[0].astype(np.float32)


def _coverage(annotation: Annotation, clips: int, length: float) -> Floats:
    """(L,) share of each clip that lies in a window of the annotation."""
    cover = np.zeros(clips, dtype=np.float32)
    starts = np.arange(clips) * length
    for start, end in annotation.windows or ():
        overlap = np.minimum(starts + length, end) - np.maximum(starts, start)
        cover = np.maximum(cover, overlap.clip(0) / length)
    return cover.astype(np.float32)


def _slow(random: np.random.Generator, clips: int, latent: int, memory: float) -> Floats:
    """A stationary random walk (L, E) of variance 1 that forgets over `memory` clips."""
    keep = np.exp(-1 / memory)
    steps = random.standard_normal((clips, latent), dtype=np.float32)
    for i in range(1, clips):
        steps[i] = keep * steps[i - 1] + np.sqrt(1 - keep**2) * steps[i]
    return steps


def _smooth(x: Floats, radius: int) -> Floats:
    """Moving average (L, E) over 2 * radius + 1 clips, fewer at the ends."""
    sums = np.concatenate((np.zeros_like(x[:1]), x.cumsum(0)))
    first = np.maximum(np.arange(len(x)) - radius, 0)
    last = np.minimum(np.arange(len(x)) + radius + 1, len(x))
    return np.asarray((sums[last] - sums[first]) / (last - first)[:, None], dtype=np.float32)


if __name__ == "__main__":
    sys.exit(main())
