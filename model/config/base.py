"""What every kind of model lets be chosen, and what the rest of the project asks of the choice."""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Literal, Self

Backend = Literal["sdpa", "xformers", "flash"]
Kernel = Literal["torch", "triton"]
NormKernel = Literal["torch", "apex"]
MatchingKernel = Literal["scipy", "triton"]


MOST = 1 << 16
"""Of whatever a model counts: widths, heads, queries."""
MOST_LAYERS = 64


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a model. Each kind has its own, with these fields and whatever else it needs.

    Attributes:
        kind: which model
        video_width: width Dv of the frozen video features
        text_width: width Dt of the frozen text features
        layers: the stored feature layers that are read; -1 is the deepest
        existence: also judge whether a video shows at all what a sentence says
    """

    KERNELS: ClassVar[tuple[str, ...]] = ("attention_backend",)
    """Fields that say what computes, not what is computed."""

    kind: str
    video_width: int
    text_width: int
    layers: tuple[int, ...]
    existence: bool = False

    def __post_init__(self) -> None:
        # Before anything of that size is made.
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, int):
                require(abs(value) <= MOST, each.name, value, f"at most {MOST}")
        require(len(self.layers) <= MOST_LAYERS, "layers", self.layers, f"{MOST_LAYERS} at most")

    @property
    def columns(self) -> int:
        """What `Prediction.queries` counts up to: the learned queries of a model that has them."""
        queries: int = getattr(self, "queries")  # noqa: B009  # of the kinds that have them
        return queries

    @property
    def needs_negatives(self) -> bool:
        """Whether training compares each video with the sentence of another pair."""
        return False

    def kernels(self) -> dict[str, Any]:
        """The fields of `KERNELS` and what they are."""
        return {name: getattr(self, name) for name in self.KERNELS}

    def portable(self) -> Self:
        """The same model, computed by what runs on every machine."""
        plain: dict[str, Any] = {
            each.name: each.default for each in fields(self) if each.name in self.KERNELS
        }
        return replace(self, **plain)

    def differences(self, other: "ModelConfig") -> list[str]:
        """Names of what the other model has otherwise; which kernels compute it may differ."""
        ours, theirs = asdict(self), asdict(other)
        names = [*dict.fromkeys([*ours, *theirs])]
        return [
            name
            for name in names
            if name not in self.KERNELS and ours.get(name) != theirs.get(name)
        ]


@dataclass(frozen=True)
class ObjectiveConfig:
    """What a kind of model is trained for; each kind has its own, with this and whatever else.

    Attributes:
        existence: weight of telling sentences of a video from those of other videos, where
            model.existence is on
    """

    existence: float = 1.0

    def __post_init__(self) -> None:
        require(self.existence >= 0, "existence", self.existence, "0 or more")


def require(condition: bool, field: str, value: object, wanted: str) -> None:
    """Raise ValueError that names the field and the mend, unless the condition holds."""
    if not condition:
        raise ValueError(f"{field} is {str(value)[:80]}: make it {wanted}")
