"""Where does a video show what a sentence says, by the encoders alone and without any training?

In the space that CLIP-like encoders share, a clip is the more like a sentence the better it fits.
What is like it everywhere is no moment: as in TFVTG (Zheng et al., "Training-free Video Temporal
Grounding using Large-scale Pre-trained Models", ECCV 2024, its static score), a window is good
where the similarity inside is above that of the rest of the video. How much above is weighed as in
circular binary segmentation (Olshen et al., Biostatistics 2004): the score is the part of the
similarities' variance that the window explains, in [0, 1]. That favours neither the single best
clip nor the whole video, and has no parameter to tune; only the lengths that are tried and what
becomes of overlapping windows is chosen here.
"""

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_pipeline.config import EncoderConfig
from data_pipeline.errors import InputError
from data_pipeline.extraction.encoding import FeatureEncoder, SentenceFeatures, VideoFeatures
from trainer.cli import load_section
from trainer.config import PostprocessConfig
from trainer.inference.grounding import Grounding
from trainer.inference.postprocess import postprocess
from trainer.inference.predict import MOST_WINDOWS, VideoGrounder, usable_device

GROWTH = 1.25
"""From one length of windows that is tried to the next; short ones grow by a clip."""

POSTPROCESS = PostprocessConfig(threshold=0.5, demote=False, unit=0.0)

Floats = NDArray[np.float64]
Half = NDArray[np.float16]


def similarity(clips: Half, sentence: Half) -> Floats:
    """(L,) cosines of vectors (L, J) with one (J,)."""
    left, right = clips.astype(np.float64), sentence.astype(np.float64)
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right)
    return np.asarray(left @ right / np.maximum(lengths, 1e-12))


def scored_windows(fits: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Windows (n, 2) of clips, from one to before another, and their scores, of L similarities.

    Those whose clips fit better than the others, at every place and in lengths from a clip to all
    but one; where nothing stands out, the whole video with score 0.
    """
    count = len(fits)
    whole = np.array([[0, count]])
    centred = fits - fits.mean()
    variance = float(np.mean(centred**2))
    if variance < 1e-12:  # less than what half precision tells apart
        return whole, np.zeros(1)
    sums = np.concatenate([[0.0], np.cumsum(centred)])
    windows, scores = [], []
    length = 1
    while length < count:
        inside = sums[length:] - sums[:-length]  # of all windows of this length
        first = np.flatnonzero(inside > 0)
        windows.append(np.stack([first, first + length], axis=1))
        # With means m of the window and -m n / (L - n) of the rest, about a common mean of 0.
        scores.append(inside[first] ** 2 / (length * (count - length) * variance))
        length = max(length + 1, int(length * GROWTH))
    return np.concatenate(windows), np.minimum(np.concatenate(scores), 1.0)


def ground(fits: Floats, clip_length: float, duration: float) -> Floats:
    """(n, 3) windows in seconds and their scores, best first, of a video's similarities (L,)."""
    windows, scores = scored_windows(fits)
    best = np.argsort(-scores, kind="stable")[:MOST_WINDOWS]
    found = np.column_stack([windows[best] * clip_length, scores[best]])
    return postprocess(found[None], [duration], POSTPROCESS)[0]


class ZeroShotGrounder(VideoGrounder):
    """Encoders that share a space, used without a model.

    grounder = ZeroShotGrounder.from_encoder("configs/extract/clip_b32.yaml")
    """

    def __init__(self, encoder: FeatureEncoder) -> None:
        super().__init__(encoder)
        if encoder.joint_width is None:
            config = encoder.config
            raise InputError(
                f"the encoders {config.video} and {config.text} share no space of videos and "
                "sentences, by which to answer without training; name CLIP-like ones, such as "
                "those of configs/extract/clip_b32.yaml"
            )

    @classmethod
    def from_encoder(
        cls, config: EncoderConfig | str | Path, device: str | None = None
    ) -> "ZeroShotGrounder":
        """Take the encoders of a configuration, or of the section `encoder` of a YAML file.

        `device` as in `Grounder.from_pretrained`. Raises InputError where they share no space.
        """
        if not isinstance(config, EncoderConfig):
            config = load_section(EncoderConfig, Path(config), "encoder")
        return cls(FeatureEncoder(replace(config, device=usable_device(device))))

    def identity(self) -> str:
        """A hash of all that an answer depends on."""
        made_with = json.dumps(asdict(self.encoder.provenance), sort_keys=True)
        return hashlib.sha256(made_with.encode()).hexdigest()

    def _ground(self, query: str, text: SentenceFeatures, video: VideoFeatures) -> Grounding:
        assert video.joint is not None
        assert text.joint is not None
        fits = similarity(video.joint, text.joint)
        windows = ground(fits, video.clip_length, video.duration)
        return Grounding(
            query,
            video.duration,
            video.clip_length,
            tuple((float(start), float(end), float(score)) for start, end, score in windows),
            fits.astype(np.float32),
            text.unread,
        )
