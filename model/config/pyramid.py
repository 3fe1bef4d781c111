"""What can be chosen about the pyramid's two models and what they are trained for?"""

from dataclasses import asdict, dataclass, field
from typing import Literal

from model.config.base import Backend, ModelConfig, ObjectiveConfig, require


@dataclass(frozen=True)
class PyramidConfig(ModelConfig):
    """Shape of a matching-free head over a multi-scale pyramid of clips.

    Attributes:
        kind: pyramid
        video_width: width Dv of the frozen video features; of all patches of a clip together
        text_width: width Dt of the frozen text features
        layers: the stored feature layers that are read: one for flash; for recurrent any number,
            one step each, usually the deepest first
        encoder: flash is FlashVTG's (clips ask words and dummies, then each other), with its mix of
            class and confidence; recurrent is R2-Tuning's side block, with its convolutional class
            head
        width: hidden width F
        heads: attention heads H
        feed_forward: hidden width of the feed-forward networks
        text_to_video_layers: of flash, layers in which the clips ask the words
        encoder_layers: of flash, layers of the clips' self-attention
        dummies: of flash, tokens beside the words that take the attention of unrelated clips
        dummy_layers: of flash, layers that make the dummies of a sentence (8 heads each)
        patches: of recurrent, vectors of a clip in a stored layer, the first one the whole frame's
        strides: clips between the points of each level; powers of two, 1 first
        score_kernel: of flash, clips that a convolution of its two score heads sees
        score_convolutions: of flash, how many there are in each
        score_layers: of flash, depth of the perceptrons behind them
        endpoints: give every clip its start and end in [0, 1] of the video
        input_dropout: dropout on the frozen features and after their first projection
        dropout: dropout on every residual branch
        negatives: of flash, compare each video with the sentence of another pair in training
        see_padding: compute as the originals do in a batch, where padding acts on what is beside
            it; for their recordings only, as a pair's result then depends on its neighbours
        attention_backend: what computes attention
    """

    kind: Literal["pyramid"] = "pyramid"
    video_width: int = 768
    text_width: int = 4096
    layers: tuple[int, ...] = (-1,)
    encoder: Literal["flash", "recurrent"] = "flash"
    width: int = 256
    heads: int = 8
    feed_forward: int = 1024
    text_to_video_layers: int = 6
    encoder_layers: int = 3
    dummies: int = 40
    dummy_layers: int = 2
    patches: int = 1
    strides: tuple[int, ...] = (1, 2, 4, 8)
    score_kernel: int = 5
    score_convolutions: int = 1
    score_layers: int = 5
    endpoints: bool = True
    input_dropout: float = 0.5
    dropout: float = 0.1
    negatives: bool = True
    see_padding: bool = False
    attention_backend: Backend = "sdpa"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in (
            *("video_width", "text_width", "width", "heads", "feed_forward", "dummies", "patches"),
            *("text_to_video_layers", "encoder_layers", "dummy_layers", "score_layers"),
            "score_convolutions",
        ):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("input_dropout", "dropout"):
            require(0 <= getattr(self, name) < 1, name, getattr(self, name), "in [0, 1)")
        require(
            self.encoder in ("flash", "recurrent"), "encoder", self.encoder, "flash or recurrent"
        )
        powers = tuple(2**level for level in range(len(self.strides)))
        require(self.strides == powers and bool(powers), "strides", self.strides, "1, 2, 4, ...")
        require(self.score_kernel % 2 == 1, "score_kernel", self.score_kernel, "odd")
        for unit in (8 if self.encoder == "flash" else 2, 2 * self.heads):
            require(self.width % unit == 0, "width", self.width, f"a multiple of {unit}")
        if self.encoder == "flash":
            require(len(self.layers) == 1, "layers", self.layers, "one index, e.g. [-1]")
            require(self.patches == 1, "patches", self.patches, "1 with encoder flash")
        else:
            require(len(self.layers) > 0, "layers", self.layers, "a list of indices, e.g. [-1]")
        found = self.video_width % self.patches
        require(found == 0, "video_width", self.video_width, f"a multiple of {self.patches}")

    @property
    def columns(self) -> int:
        return len(self.strides)

    @property
    def needs_negatives(self) -> bool:
        return self.negatives and self.encoder == "flash"


@dataclass(frozen=True)
class PyramidWeights:
    """Weight of each term; the names are the keys of the loss dictionary. The default is
    FlashVTG's.

    Attributes:
        classification: weight of the focal loss of the points
        boundary: weight of the distance of the points' boundaries
        contrast: weight of the contrastive highlight loss (R2-Tuning's sampled NCE)
        saliency: weight of FlashVTG's highlight terms together; nothing for recurrent
        label: weight of the distance of scores to annotated saliency; nothing for recurrent
        alignment_batch: weight of aligning clips and sentences among the pairs of a batch; nothing
            for flash
        alignment_layers: weight of aligning clips and sentences among the layers of a pair; nothing
            for flash
    """

    classification: float = 5.0
    boundary: float = 1.0
    contrast: float = 0.1
    saliency: float = 0.8
    label: float = 4.0
    alignment_batch: float = 0.1
    alignment_layers: float = 0.1

    def __post_init__(self) -> None:
        for name, weight in asdict(self).items():
            require(weight >= 0, name, weight, "0 or more")


@dataclass(frozen=True)
class PyramidLossConfig(ObjectiveConfig):
    """What the pyramid is trained for.

    Attributes:
        weights: what each term counts
        radius: strides from a window's middle within which points answer for it
        temperature: of the contrastive terms
        attention: weight, inside saliency, of the terms of the clips' attention to the words
        margin: by which a clip of a moment shall be more salient than one that is worse
        levels: steps of the annotated saliency: 12, three annotators' votes of 0 to 4; 1 where
            clips are only inside a window or not
    """

    weights: PyramidWeights = field(default_factory=PyramidWeights)
    radius: float = 1.5
    temperature: float = 0.07
    attention: float = 1.0
    margin: float = 0.2
    levels: int = 12

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.radius > 0, "radius", self.radius, "positive")
        require(self.temperature > 0, "temperature", self.temperature, "positive")
        require(self.attention >= 0, "attention", self.attention, "0 or more")
        require(self.margin >= 0, "margin", self.margin, "0 or more")
        require(self.levels >= 1, "levels", self.levels, "at least 1")
