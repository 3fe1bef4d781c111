"""What a segment can show: drawn objects and filmed scenes."""

from dataclasses import dataclass

COLOURS = ("red", "yellow", "green", "blue", "pink", "white")

MOTIONS: dict[str, tuple[str, ...]] = {
    "ball": ("left", "right"),
    "square": ("turn",),
    "triangle": ("up", "down"),
    "star": ("spin",),
    "heart": ("beat",),
    "ring": ("swing",),
}
"""The motions each drawn shape can make; a shape also fixes the texture (see scenes.py)."""

FILMED = ("rabbit", "passenger", "lorry", "taxi", "cyclist", "street", "bicycle")


@dataclass(frozen=True)
class Drawn:
    """An object of one colour and shape in one motion."""

    colour: str
    shape: str
    motion: str

    @property
    def subject(self) -> tuple[str, str]:
        """What makes two segments satisfy the same sentence, whatever the motion."""
        return self.colour, self.shape


@dataclass(frozen=True)
class Filmed:
    """One shot of real footage."""

    shot: str

    @property
    def subject(self) -> tuple[str, str]:
        """What makes two segments satisfy the same sentence."""
        return "filmed", self.shot


Kind = Drawn | Filmed

DRAWN_KINDS = tuple(
    Drawn(colour, shape, motion)
    for colour in COLOURS
    for shape, motions in MOTIONS.items()
    for motion in motions
)
FILMED_KINDS = tuple(Filmed(shot) for shot in FILMED)
