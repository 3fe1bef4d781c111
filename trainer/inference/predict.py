"""Find in a video what a sentence describes, with a trained model.

grounder = Grounder.from_pretrained("runs/quickstart")
video = grounder.encode("holiday.mp4")
for found in grounder.predict(video, ["a dog jumps into the water", "people wave"], top=3):
    print(found.query, found.windows)
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import overload

import numpy as np
import torch
from torch import Tensor

from data_pipeline.errors import InputError
from data_pipeline.extraction.encoding import FeatureEncoder, SentenceFeatures, VideoFeatures
from data_pipeline.output import write_text
from data_pipeline.untrusted import read_text
from model.interface import GroundingModel
from trainer.cli import dump_config
from trainer.inference.decode import NOT_FINITE, decode
from trainer.inference.encoded import load_video, save_video
from trainer.inference.grounding import Grounding, Groundings
from trainer.inference.long_video import (
    Stretch,
    merge_existence,
    merge_saliency,
    merge_windows,
    stretch_starts,
)
from trainer.inference.model_card import CARD, model_card
from trainer.inference.postprocess import postprocess
from trainer.inference.pretrained import (
    CONFIG,
    Export,
    check_encoder,
    check_encoder_is_known,
    find_model,
    load_pretrained,
)
from trainer.training import checkpoints

CLIPS_AT_ONCE = 2048  # bounds the memory of one forward pass, whatever the video and the queries
SENTENCES_AT_ONCE = 32  # are encoded together where they have as many tokens
MOST_WINDOWS = 500  # of a long video go into post-processing, which compares all with all


def read_card(folder: Path, export: Export) -> str:
    """The card in a model's folder, or else one made from the run that the folder lies in."""
    if (folder / CARD).is_file():
        return read_text(folder / CARD)
    return model_card(folder.resolve().parent.name, export, folder.parent)


class VideoGrounder(ABC):
    """What answers for videos and sentences, each encoded once."""

    def __init__(self, encoder: FeatureEncoder) -> None:
        self.encoder = encoder
        self._asked: tuple[str, ...] = ()
        self._texts: list[SentenceFeatures] = []

    def encode(
        self,
        video: str | Path,
        start: float = 0.0,
        end: float | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> VideoFeatures:
        """Features of a video, for any number of `predict`; the same bytes as extraction makes.

        `progress` is told the share that is done. What is damaged is told in the features'
        `warnings`, which extraction refuses. Raises InputError for a file of which nothing can be
        decoded.
        """
        return self.encoder.encode_video(Path(video), start, end, progress)

    def save(self, video: VideoFeatures, path: str | Path) -> Path:
        """Keep an encoded video in a file (safetensors), for `load`."""
        save_video(Path(path), video, self.encoder.provenance)
        return Path(path)

    def load(self, path: str | Path) -> VideoFeatures:
        """The encoded video in a file of `save`; InputError where other encoders made it."""
        return load_video(Path(path), self.encoder.provenance, self.encoder.video_shape)

    @overload
    def predict(
        self,
        video: str | Path | VideoFeatures,
        queries: str | Sequence[str],
        *,
        top: int | None = None,
        threshold: float | None = None,
    ) -> Groundings: ...

    @overload
    def predict(
        self,
        video: list[str | Path | VideoFeatures] | list[str] | list[Path] | list[VideoFeatures],
        queries: str | Sequence[str],
        *,
        top: int | None = None,
        threshold: float | None = None,
    ) -> list[Groundings]: ...

    def predict(
        self,
        video: str
        | Path
        | VideoFeatures
        | list[str | Path | VideoFeatures]
        | list[str]
        | list[Path]
        | list[VideoFeatures],
        queries: str | Sequence[str],
        *,
        top: int | None = None,
        threshold: float | None = None,
    ) -> Groundings | list[Groundings]:
        """Ground one or many sentences in a video of any length, or in each of a list of videos.

        Every video and every sentence is encoded once. Of each sentence the windows whose score is
        at least `threshold` are returned, the best `top` of them. A list of videos gives a list.
        Raises InputError for an empty sentence, for an answer that is not finite, and as `encode`.
        """
        sentences = [queries] if isinstance(queries, str) else list(queries)
        for number, sentence in enumerate(sentences, start=1):
            if not sentence.strip():
                raise InputError(f"query {number} is empty; write what to look for in the video")
        if top is not None and top < 1:
            raise InputError(f"top is {top}; make it at least 1")
        texts = self._encoded(sentences)

        def ground(one: str | Path | VideoFeatures) -> Groundings:
            name = None if isinstance(one, VideoFeatures) else str(one)
            if not sentences:
                return Groundings((), name)
            features = one if isinstance(one, VideoFeatures) else self.encode(one)
            found = [
                self._ground(sentence, text, features)
                for sentence, text in zip(sentences, texts, strict=True)
            ]
            for each in found:
                if not (np.isfinite(each.windows).all() and np.isfinite(each.saliency).all()):
                    raise InputError(NOT_FINITE)
            found = [each.best(top, threshold) for each in found]
            return Groundings(found, name, features.warnings)

        return [ground(one) for one in video] if isinstance(video, list) else ground(video)

    def _encoded(self, sentences: Sequence[str]) -> list[SentenceFeatures]:
        """Features of each sentence; those of the last call are kept, for the next video."""
        if tuple(sentences) != self._asked:
            self._texts = self.encoder.encode_sentences(sentences, SENTENCES_AT_ONCE)
            self._asked = tuple(sentences)
        return self._texts

    @abstractmethod
    def _ground(self, query: str, text: SentenceFeatures, video: VideoFeatures) -> Grounding: ...


def usable_device(device: str | None) -> str:
    """A PyTorch device, by default a GPU where there is one; InputError where it cannot be used."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises either, by build and device
        reason = str(error).partition("\n")[0]
        raise InputError(f"device {device!r} cannot be used here ({reason})") from error
    return device


class Grounder(VideoGrounder):
    """A trained model with the encoders that its features came from, and its card."""

    def __init__(
        self,
        model: GroundingModel,
        encoder: FeatureEncoder,
        export: Export,
        device: str,
        card: str = "",
    ) -> None:
        super().__init__(encoder)
        self.card = card
        self.model = model.to(device).eval()
        self.export = export
        self.device = torch.device(device)

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str | None = None) -> "Grounder":
        """Load a run's folder or its `model/` folder, and the encoders named there.

        `device` is a PyTorch device, by default a GPU where there is one. Raises InputError where
        files are missing, weights belong to another model, or the encoders' weights are not those
        that the training features were made with.
        """
        folder = find_model(Path(folder))
        model, export = load_pretrained(folder)
        check_encoder_is_known(folder / CONFIG, export.encoder)
        device = usable_device(device)
        encoder = FeatureEncoder(replace(export.encoder, device=device))
        check_encoder(folder / CONFIG, encoder.provenance, export.features)
        return cls(model, encoder, export, device, read_card(folder, export))

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write weights, configuration and card, for `from_pretrained` here or elsewhere.

        The encoders' weights stay where they are; a configuration that names files of them must be
        pointed to the same weights on another machine.
        """
        checkpoints.export(Path(folder), self.model, dump_config(self.export))
        card = self.card or model_card(Path(folder).resolve().name, self.export, None)
        write_text(Path(folder) / CARD, card)
        return Path(folder)

    def _ground(self, query: str, text: SentenceFeatures, video: VideoFeatures) -> Grounding:
        clips = len(video.features)
        starts = stretch_starts(clips, self.export.max_clips)
        stretches = list(self._stretches(torch.from_numpy(text.features), video, starts))
        calibration = self.export.calibration
        windows = merge_windows(stretches)
        config = replace(
            self.export.postprocess,
            demote=False,  # near-duplicates help a benchmark, not a reader
            keep=self.export.postprocess.keep * -(-clips // self.export.max_clips),
        )
        kept = postprocess(windows[None, :MOST_WINDOWS], [video.duration], config)[0]
        return Grounding(
            query,
            video.duration,
            video.clip_length,
            tuple((float(start), float(end), float(score)) for start, end, score in kept),
            merge_saliency(stretches, starts, clips).astype(np.float32),
            text.unread,
            merge_existence(stretches),
            calibration.threshold if len(stretches) == 1 else calibration.threshold_of_stretches,
        )

    @torch.inference_mode()
    def _stretches(
        self, text: Tensor, video: VideoFeatures, starts: Sequence[int]
    ) -> Iterator[Stretch]:
        """Predictions for the stretches of equal length that begin at the clips `starts`."""
        size = min(len(video.features), self.export.max_clips)
        together = max(1, CLIPS_AT_ONCE // size)
        features = torch.from_numpy(video.features)  # (L, K, Dv)
        for first in range(0, len(starts), together):
            some = starts[first : first + together]
            clips = torch.stack([features[start : start + size] for start in some])  # (B, l, K, Dv)
            clips = clips.to(self.device).float()
            words = text.to(self.device).float().expand(len(some), *text.shape)  # (B, T, K, Dt)
            mask = torch.ones(clips.shape[:2], dtype=torch.bool, device=self.device)  # (B, l)
            word_mask = torch.ones(words.shape[:2], dtype=torch.bool, device=self.device)  # (B, T)
            prediction = self.model(clips, mask, words, word_mask)
            offsets = [start * video.clip_length for start in some]
            span = size * video.clip_length
            durations = [min(span, video.duration - offset) for offset in offsets]
            decoded = decode(
                prediction, mask, torch.full((len(some),), span, device=self.device), durations
            )
            found, existence = self.export.calibration.comparable(decoded)
            for row, offset in enumerate(offsets):
                windows = found[row][decoded.real[row]] + np.array([offset, offset, 0.0])
                yield Stretch(
                    offset,
                    offset + durations[row],
                    windows,
                    decoded.saliency[row],
                    None if existence is None else float(existence[row]),
                )
