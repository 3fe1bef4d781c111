"""What can be chosen about SDST and its objective: every number, every ablation."""

from dataclasses import asdict, dataclass, field
from typing import ClassVar, Literal

from model.config.base import (
    Backend,
    Kernel,
    MatchingKernel,
    ModelConfig,
    NormKernel,
    ObjectiveConfig,
    require,
)

SparseAttention = Literal["rdsa", "deformable", "deformable_pure_init", "cross"]


@dataclass(frozen=True)
class SDSTConfig(ModelConfig):
    """Shape of SDST. The defaults are the published QVHighlights model (InternVideo2-1B features).

    Which implementation computes changes no number; what is asked for and not installed is refused
    when the model is built.

    Attributes:
        kind: sdst
        video_width: width Dv of the frozen video features
        text_width: width Dt of the frozen text features
        layers: the stored feature layer that feeds each recurrence step; -1 is the deepest. Any
            order, and a layer may repeat: [-1, -1, -1] runs the shared layer three times on the
            last
        width: hidden width F
        heads: attention heads H
        points: sampling points P of a head
        queries: moment queries M
        feed_forward_ratio: hidden width of the feed-forward networks, in units of width
        endpoints: give every clip its start and end in [0, 1] of the video
        input_dropout: dropout on the frozen features
        dropout: dropout on every residual branch
        sparse_attention: how the queries read the dense stream: RDSA (the paper), deformable
            cross-attention, the same without the hand-made initial offsets, or plain
            cross-attention
        query_self_attention: let the queries see each other
        query_dropout: share of the queries left out of each training example
        actionness: score each span once more from the clips it covers (1-D RoIAlign)
        roi_bins: bins of a span
        roi_scale: how much wider than the span is looked at
        attention_backend: what computes attention
        deformable_kernel: what samples the clips; triton needs CUDA
        norm_kernel: what normalises; apex is NVIDIA's
    """

    KERNELS: ClassVar = ("attention_backend", "deformable_kernel", "norm_kernel")

    kind: Literal["sdst"] = "sdst"
    video_width: int = 768
    text_width: int = 1024
    layers: tuple[int, ...] = (-1, -2, -3, -4)
    width: int = 256
    heads: int = 8
    points: int = 4
    queries: int = 30
    feed_forward_ratio: int = 4
    endpoints: bool = True
    input_dropout: float = 0.5
    dropout: float = 0.1
    sparse_attention: SparseAttention = "rdsa"
    query_self_attention: bool = True
    query_dropout: float = 0.0
    actionness: bool = True
    roi_bins: int = 16
    roi_scale: float = 1.5
    attention_backend: Backend = "sdpa"
    deformable_kernel: Kernel = "torch"
    norm_kernel: NormKernel = "torch"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("video_width", "text_width", "width", "heads", "points", "queries"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("feed_forward_ratio", "roi_bins"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("input_dropout", "dropout", "query_dropout"):
            require(0 <= getattr(self, name) < 1, name, getattr(self, name), "in [0, 1)")
        require(self.roi_scale > 0, "roi_scale", self.roi_scale, "positive")
        require(len(self.layers) > 0, "layers", self.layers, "a list of layer indices, e.g. [-1]")
        require(
            self.width % (2 * self.heads) == 0,
            "width",
            self.width,
            f"a multiple of 2 * heads = {2 * self.heads}",
        )


@dataclass(frozen=True)
class MatchingCost:
    """Weights of the terms of the matching cost.

    Attributes:
        classification: weight of the focal loss's change, were the query a positive
        l1: weight of the distance of centres and widths
        iou: weight of 1 - IoU
        alpha: the focal loss's balance of positives in it
        gamma: the focal loss's exponent in it
    """

    classification: float = 6.0
    l1: float = 5.0
    iou: float = 2.0
    alpha: float = 0.25
    gamma: float = 2.0

    def __post_init__(self) -> None:
        for name in ("classification", "l1", "iou", "gamma"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)!r}: make it 0 or more")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha is {self.alpha!r}: make it between 0 and 1")


@dataclass(frozen=True)
class LossWeights:
    """Weight of each term; the names are the keys of the loss dictionary.

    Attributes:
        classification: weight of the focal loss of relevance
        l1: weight of the distance of matched centres and widths
        iou: weight of 1 - IoU of matched spans
        actionness: weight of the distance of actionness to the best IoU
        saliency: weight of the contrastive highlight loss
        alignment_batch: weight of aligning clips and sentences among the pairs of a batch
        alignment_layers: weight of aligning clips and sentences among the layers of a pair
    """

    classification: float = 2.0
    l1: float = 5.0
    iou: float = 2.0
    actionness: float = 4.0
    saliency: float = 0.1
    alignment_batch: float = 0.1
    alignment_layers: float = 0.1

    def __post_init__(self) -> None:
        for name, weight in asdict(self).items():
            if weight < 0:
                raise ValueError(f"{name} is {weight!r}: make it 0 or more")


@dataclass(frozen=True)
class LossConfig(ObjectiveConfig):
    """The training objective.

    Attributes:
        weights: what each term counts
        matching: what decides which query answers for which window
        matching_kernel: what finds the cheapest matching: scipy on the host, or triton where the
            costs are, which needs CUDA
        supervise: every recurrence step, or only the last
        alpha: the focal loss's balance of positives
        gamma: the focal loss's exponent
        temperature: of the three contrastive terms
    """

    weights: LossWeights = field(default_factory=LossWeights)
    matching: MatchingCost = field(default_factory=MatchingCost)
    matching_kernel: MatchingKernel = "scipy"
    supervise: Literal["all", "last"] = "all"
    alpha: float = 0.25
    gamma: float = 2.0
    temperature: float = 0.07

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature!r}: make it positive")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha is {self.alpha!r}: make it between 0 and 1")
        if self.supervise not in ("all", "last"):
            raise ValueError(f"supervise is {self.supervise!r}: make it 'all' or 'last'")
