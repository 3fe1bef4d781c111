"""What can be chosen about Moment-DETR, QD-DETR and what they are trained for?"""

from dataclasses import asdict, dataclass, field
from typing import Literal

from model.config.base import Backend, MatchingKernel, ModelConfig, ObjectiveConfig, require


@dataclass(frozen=True)
class MomentDETRConfig(ModelConfig):
    """Shape of Moment-DETR as published; the same module tree as QD-DETR, whose parts are switches.

    Attributes:
        kind: moment_detr
        video_width: width Dv of the frozen video features, SlowFast and CLIP by default
        text_width: width Dt of the frozen text features
        layers: the stored feature layer that is read, one
        width: hidden width F
        heads: attention heads H
        encoder_layers: layers of the encoder
        decoder_layers: layers of the decoder, all of them supervised
        feed_forward: hidden width of the feed-forward networks
        queries: moment queries M
        endpoints: give every clip its start and end in [0, 1] of the video
        endpoint_copies: how often these stand in the input; 2 in QD-DETR with sound, which has them
            with the frames and with the sound
        input_dropout: dropout on the frozen features and after their first projection
        dropout: dropout on every residual branch, inside the feed-forward networks and on
            attention weights
        text_to_video_layers: layers in which the clips ask the sentence before the encoder sees the
            clips and a global token (QD-DETR); 0 lets the encoder see clips and words together
        anchors: decode refined (centre, width) anchors instead of learned embeddings (QD-DETR)
        negatives: compare each video with the sentence of another pair in training (QD-DETR)
        attention_backend: what computes attention
    """

    kind: Literal["moment_detr"] = "moment_detr"
    video_width: int = 2816
    text_width: int = 512
    layers: tuple[int, ...] = (-1,)
    width: int = 256
    heads: int = 8
    encoder_layers: int = 2
    decoder_layers: int = 2
    feed_forward: int = 1024
    queries: int = 10
    endpoints: bool = True
    endpoint_copies: int = 1
    input_dropout: float = 0.5
    dropout: float = 0.1
    text_to_video_layers: int = 0
    anchors: bool = False
    negatives: bool = False
    attention_backend: Backend = "sdpa"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in (
            *("video_width", "text_width", "width", "heads", "queries", "feed_forward"),
            *("encoder_layers", "decoder_layers", "endpoint_copies"),
        ):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("input_dropout", "dropout"):
            require(0 <= getattr(self, name) < 1, name, getattr(self, name), "in [0, 1)")
        layers = self.text_to_video_layers
        require(layers >= 0, "text_to_video_layers", layers, "0 or more")
        require(len(self.layers) == 1, "layers", self.layers, "a list of one index, e.g. [-1]")
        unit = 2 * self.heads
        require(self.width % unit == 0, "width", self.width, f"a multiple of 2 * heads = {unit}")
        require(self.width % 4 == 0, "width", self.width, "a multiple of 4")

    @property
    def needs_negatives(self) -> bool:
        return self.negatives


@dataclass(frozen=True)
class QDDETRConfig(MomentDETRConfig):
    """Shape of QD-DETR as published. Without its three switches it is Moment-DETR."""

    kind: Literal["qd_detr"] = "qd_detr"  # type: ignore[assignment]
    text_to_video_layers: int = 2
    anchors: bool = True
    negatives: bool = True


@dataclass(frozen=True)
class DETRMatching:
    """Weights of the terms of the matching cost.

    Attributes:
        span: weight of the distance of centres and widths
        giou: weight of the generalised IoU
        label: weight of the probability of being a moment
    """

    span: float = 10.0
    giou: float = 1.0
    label: float = 4.0


@dataclass(frozen=True)
class DETRWeights:
    """Weight of each term; the names are the keys of the loss dictionary.

    Attributes:
        span: weight of the mean distance of matched centres and of widths
        giou: weight of 1 - generalised IoU of matched spans
        label: weight of the cross-entropy of moment and no moment
        saliency: weight of the highlight terms together
    """

    span: float = 10.0
    giou: float = 1.0
    label: float = 4.0
    saliency: float = 1.0

    def __post_init__(self) -> None:
        for name, weight in asdict(self).items():
            require(weight >= 0, name, weight, "0 or more")


@dataclass(frozen=True)
class DETRLossConfig(ObjectiveConfig):
    """What Moment-DETR and QD-DETR are trained for.

    Attributes:
        weights: what each term counts
        matching: what decides which query answers for which window
        matching_kernel: what finds the cheapest matching: scipy on the host, or triton where the
            costs are, which needs CUDA
        no_moment: weight of the queries without a window in the cross-entropy
        margin: by which a clip of a moment shall be more salient than one that is worse
        levels: steps of the annotated saliency: 12, three annotators' votes of 0 to 4; 1 where
            clips are only inside a window or not
    """

    weights: DETRWeights = field(default_factory=DETRWeights)
    matching: DETRMatching = field(default_factory=DETRMatching)
    matching_kernel: MatchingKernel = "scipy"
    no_moment: float = 0.1
    margin: float = 0.2
    levels: int = 12

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.no_moment >= 0, "no_moment", self.no_moment, "0 or more")
        require(self.margin >= 0, "margin", self.margin, "0 or more")
        require(self.levels >= 1, "levels", self.levels, "at least 1")
