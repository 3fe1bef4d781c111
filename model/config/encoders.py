"""What can be chosen about InternVideo2's two towers?"""

from dataclasses import dataclass
from typing import Literal

from model.config.base import Backend


@dataclass(frozen=True)
class InternVideo2Config:
    """Sizes of the tower, the published 1B model by default, and how it is run.

    The 6B model is width 3200, depth 48, heads 25 and mlp_width 12800.

    Attributes:
        name: what provenance calls it
        image_size: pixels of a side
        patch_size: pixels of a patch's side
        frames_per_clip: frames that are seen of a clip
        tubelet_size: frames that one token spans
        width: of the token states
        depth: blocks
        heads: attention heads of a block
        mlp_width: hidden width of the feed-forward networks
        pool_heads: heads of the attention pooling
        pool_width: width of what the attention pooling gives
        pooling: how the token states after a block become one vector: adaptive is the frozen
            attention pooling (pool_width), cls the CLS token and average the mean of all tokens,
            CLS included as in the query of the attention pooling (both as wide as the tower)
        attention: what computes attention
        compile: compile the blocks and the pooling with torch.compile
    """

    name: str = "internvideo2-1b"
    image_size: int = 224
    patch_size: int = 14
    frames_per_clip: int = 4
    tubelet_size: int = 1
    width: int = 1408
    depth: int = 40
    heads: int = 16
    mlp_width: int = 6144
    pool_heads: int = 16
    pool_width: int = 768
    pooling: Literal["adaptive", "cls", "average"] = "adaptive"
    attention: Backend = "sdpa"
    compile: bool = False

    def __post_init__(self) -> None:
        if self.pooling not in ("adaptive", "cls", "average"):
            raise ValueError(f"pooling must be adaptive, cls or average, found {self.pooling!r}")
        for size, part in (
            ("image_size", "patch_size"),
            ("frames_per_clip", "tubelet_size"),
            ("width", "heads"),
            ("width", "pool_heads"),
        ):
            if getattr(self, size) % getattr(self, part):
                raise ValueError(f"{size} must be a multiple of {part}")


@dataclass(frozen=True)
class InternVideo2TextConfig:
    """Sizes of the tower, BERT-large-uncased as published by default.

    Attributes:
        vocabulary: entries of the vocabulary
        width: of the token states
        depth: text-only layers, the ones built here
        published_depth: layers in the checkpoint; those from depth on are skipped
        heads: attention heads of a layer
        mlp_width: hidden width of the feed-forward networks
        positions: places that have an embedding
        max_tokens: longest sentence that is read
    """

    vocabulary: int = 30522
    width: int = 1024
    depth: int = 19
    published_depth: int = 24
    heads: int = 16
    mlp_width: int = 4096
    positions: int = 512
    max_tokens: int = 40
