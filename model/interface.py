"""What every kind of model takes, gives and is trained by: what the rest of the project knows."""

from typing import Any, NamedTuple, NotRequired, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import ModelConfig


class Prediction(NamedTuple):
    """Outputs of a model. A named tuple: DDP, FSDP and torch.compile see the tensors inside.

    S counts the supervised steps (recurrence steps, decoder layers), 1 where there is only one; M
    the spans that are predicted: queries, or points of a pyramid. Spans and scores are float32
    whatever the precision of the model.
    """

    logits: Tensor  # (S, B, M) relevance of each span after each step
    spans: Tensor  # (S, B, M, 2) centre, width; 1 is the length of the video
    saliency: Tensor  # (B, L) how well each clip fits the sentence
    queries: Tensor  # (B, M) which learned query, or level of a pyramid, each column is
    actionness: Tensor | None = None  # (B, M) logits of a second factor of the score
    valid: Tensor | None = None  # (B, M) False where a column is padding; None if none is
    existence: Tensor | None = None  # (B,) logit that the video shows at all what is said
    clip_evidence: Tensor | None = None  # (B, L, E) and
    sentence_evidence: Tensor | None = None  # (B, E), of which any pair's existence is made
    own: Any = None  # named tuple of tensors that only the kind's own objective reads

    def scores(self) -> Tensor:
        """Confidence of each final span: relevance times actionness -> (B, M) in [0, 1]."""
        scores = self.logits[-1].sigmoid()
        if self.actionness is not None:
            scores = scores * self.actionness.sigmoid()
        return scores if self.valid is None else scores.masked_fill(~self.valid, 0.0)

    def usage(self, queries: int) -> Tensor:
        """Share of the pairs whose best span each of the `queries` made -> (queries,), sums to 1.

        A few large entries are query collapse.
        """
        best = self.scores().argmax(1, keepdim=True)  # (B, 1)
        winner = self.queries.gather(1, best).flatten()  # (B,)
        # Not bincount, which has the host look for the largest.
        return (winner[:, None] == torch.arange(queries, device=winner.device)).float().mean(0)

    def tensors(self) -> list[Tensor]:
        """All tensors, those of `own` among them."""
        return [x for x in (*self[:-1], *(self.own or ())) if isinstance(x, Tensor)]


class Negatives(TypedDict):
    """Sentences of other pairs, as keyword arguments of a model that `needs_negatives`."""

    other_text: NotRequired[Tensor]  # (B, T, K, Dt)
    other_text_mask: NotRequired[Tensor]  # (B, T)


class Sentences(NamedTuple):
    """Which sentences are whose: texts as numbers that are equal where the texts are."""

    present: Tensor  # (B,) int8: 1 the video shows what is said, 0 it does not, -1 nobody says
    text: Tensor  # (B,) int64
    own: Tensor  # (B, S) int64 all sentences about the video, filled up with 0, which is no text


class GroundingModel(nn.Module):
    """The trainable part: everything between frozen features and predictions.

    `forward(video, video_mask, text, text_mask) -> Prediction` takes video (B, L, K, Dv) and text
    (B, T, K, Dt) of any float type, masks (B, L) and (B, T). Where `config.needs_negatives` it also
    takes `Negatives`; in training without them the sentences of the batch are rolled by one.
    Every kind's prediction holds what `judge_existence` gives.
    """

    config: ModelConfig

    def __init__(self) -> None:
        super().__init__()
        self.existence: nn.Module | None = None  # `build` adds it where `config.existence` is on

    def judge_existence(
        self, video: Tensor, video_mask: Tensor, text: Tensor, text_mask: Tensor
    ) -> dict[str, Tensor]:
        """The fields of `Prediction` about existence, none without a head for it."""
        if self.existence is None:
            return {}
        layer = stored_layers(self.config.layers, video.shape[2], text.shape[2])[0]
        clips, words = video[:, :, layer], text[:, :, layer]  # (B, L, Dv), (B, T, Dt)
        judged = self.existence(clips, video_mask, words, text_mask)
        names = ("existence", "clip_evidence", "sentence_evidence")
        return dict(zip(names, judged, strict=True))

    @property
    def shared_width(self) -> int | None:
        """Width of the vectors by which clips and sentences are told to belong together before
        either has seen the other; None where a kind has no such vectors."""
        return None

    def clip_vectors(self, video: Tensor, video_mask: Tensor) -> Tensor:
        """video (B, L, K, Dv), video_mask (B, L) -> (B, L, shared_width) of length 1, float32."""
        raise NotImplementedError

    def sentence_vectors(self, text: Tensor, text_mask: Tensor) -> Tensor:
        """text (B, T, K, Dt), text_mask (B, T) -> (B, shared_width) of length 1, float32."""
        raise NotImplementedError

    def slow_parameters(self) -> list[nn.Parameter]:
        """Parameters that learn at `optim.slow` of the rate."""
        return []


class Targets(NamedTuple):
    """What is known of a batch, in float32; N is at least 1."""

    windows: Tensor  # (B, N, 2) centre-width in [0, 1]
    window_mask: Tensor  # (B, N)
    saliency: Tensor  # (B, L) above 0 for relevant clips
    video_mask: Tensor  # (B, L)
    draw: Tensor  # (B,) uniform in [0, 1): decides what is sampled of each pair
    sentences: Sentences | None = None  # where a model judges existence


class Objective(nn.Module):
    """Weighted sum of all terms that a kind of model is trained by: a kind's own is `compare`.

    On several ranks the average of the ranks' gradients (as DistributedDataParallel takes it) is
    the gradient of the whole batch on one rank. Every rank must hold equally many pairs.
    """

    judges_existence = False

    def forward(
        self,
        prediction: Prediction,
        windows: Tensor,
        window_mask: Tensor,
        saliency: Tensor,
        video_mask: Tensor,
        draw: Tensor | None = None,
        sentences: Sentences | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The fields of `Targets`, `draw` drawn here by default -> (total, unweighted terms),
        float32 scalars."""
        if draw is None:
            draw = torch.rand(len(windows), device=windows.device)
        if windows.shape[1] == 0:  # one masked column, so that there is something to index
            windows, window_mask = F.pad(windows, (0, 0, 0, 1)), F.pad(window_mask, (0, 1))
        known = windows.float(), window_mask, saliency.float(), video_mask, draw, sentences
        with torch.autocast(windows.device.type, enabled=False):
            return self.compare(prediction, Targets(*known))

    def compare(self, prediction: Prediction, targets: Targets) -> tuple[Tensor, dict[str, Tensor]]:
        """(total, unweighted terms), outside of autocast; `weighted` makes them of the terms."""
        raise NotImplementedError


def weighted(
    losses: dict[str, Tensor], weights: dict[str, float]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum of an objective's terms, and the terms."""
    # A term without a weight, or the reverse, would silently drop out of training.
    assert losses.keys() == weights.keys(), losses.keys() ^ weights.keys()
    return torch.stack([weights[name] * loss for name, loss in losses.items()]).sum(), losses


def check_features(
    config: ModelConfig, video: Tensor, video_mask: Tensor, text: Tensor, text_mask: Tensor
) -> None:
    """Raise ValueError, which names the argument, for what is no batch of a model's features."""
    for name, mask, features, letter, width in (
        ("video", video_mask, video, "L", config.video_width),
        ("text", text_mask, text, "T", config.text_width),
    ):
        if features.ndim != 4 or not features.is_floating_point():
            raise ValueError(
                f"{name} is {_said(features)}, expected floats (B, {letter}, K, D{name[0]}); "
                "a single one is batch[None]"
            )
        if features.shape[3] != width:
            raise ValueError(
                f"{name} is {_said(features)}, but the model's {name}_width is {width}"
            )
        if mask.dtype != torch.bool:
            raise ValueError(
                f"{name}_mask is {_said(mask)}, expected booleans (B, {letter}), True where there "
                f"is something; convert it with {name}_mask.bool()"
            )
        if mask.shape != features.shape[:2]:
            raise ValueError(
                f"{name}_mask is {_said(mask)}, but {name} {_said(features)}: "
                f"(B, {letter}) must be the same"
            )
    if len(video) != len(text):
        raise ValueError(f"video has {len(video)} rows and text {len(text)}; give a pair in each")


def _said(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} of {str(tensor.dtype).removeprefix('torch.')}"


def stored_layers(layers: tuple[int, ...], video_layers: int, text_layers: int) -> list[int]:
    """`layers` as indices from the front of the features' K layers.

    Raises ValueError where they ask for more than the features hold.
    """
    if video_layers != text_layers:
        raise ValueError(f"{video_layers} video but {text_layers} text feature layers")
    for layer in layers:
        if not -video_layers <= layer < video_layers:
            raise ValueError(
                f"layers holds {layer} but the features have {video_layers} layers: "
                f"use indices from {-video_layers} to {video_layers - 1}"
            )
    return [layer % video_layers for layer in layers]
