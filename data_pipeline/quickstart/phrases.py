"""Sentences for each kind of segment; some are kept for the splits that training never sees."""

from dataclasses import dataclass

from data_pipeline.quickstart.kinds import Drawn, Filmed, Kind


@dataclass(frozen=True)
class Phrasings:
    """Ways to say one kind: `seen` ones occur in every split, `unseen` ones never in training."""

    seen: tuple[str, ...]
    unseen: tuple[str, ...]


# {colour} is the plain colour word, {hue} a rarer word for it, {way} the direction of the motion.
_SHAPES: dict[str, Phrasings] = {
    "ball": Phrasings(
        seen=(
            "a {colour} ball drifts to the {way}",
            "a {colour} circle with dots moves to the {way}",
            "a spotted {colour} ball floats {way}",
            "the {colour} dotted circle is drifting {way}",
        ),
        unseen=(
            "a {colour} polka-dot ball glides to the {way}",
            "a round {colour} object covered in spots travels {way}",
            "a {hue} ball drifts to the {way}",
        ),
    ),
    "square": Phrasings(
        seen=(
            "a {colour} square turns slowly",
            "a checkered {colour} square rotates",
            "a {colour} chessboard pattern is turning around",
            "the {colour} checked square revolves",
        ),
        unseen=(
            "a {colour} square with a chequered pattern is rotating",
            "a {colour} box with a checkerboard pattern turns round",
            "a checkered {hue} square rotates",
        ),
    ),
    "triangle": Phrasings(
        seen=(
            "a {colour} triangle {way}",
            "a striped {colour} triangle slowly {way}",
            "the {colour} triangle with stripes {way}",
            "a {colour} pyramid with bands {way}",
        ),
        unseen=(
            "a three-sided {colour} shape with stripes {way}",
            "there is a {colour} striped triangle that {way}",
            "a striped {hue} triangle {way}",
        ),
    ),
    "star": Phrasings(
        seen=(
            "a {colour} star spins",
            "a {colour} five-pointed star is spinning around",
            "the {colour} star whirls on the spot",
            "a big {colour} star rotates",
        ),
        unseen=(
            "a {colour} star twirls",
            "a star shape coloured {colour} goes round and round",
            "a {hue} star spins",
        ),
    ),
    "heart": Phrasings(
        seen=(
            "a {colour} heart beats",
            "a {colour} heart is pulsing",
            "the {colour} heart grows and shrinks",
            "a beating {colour} love heart",
        ),
        unseen=(
            "a {colour} heart throbs",
            "a heart shape coloured {colour} pulsates",
            "a {hue} heart beats",
        ),
    ),
    "ring": Phrasings(
        seen=(
            "a {colour} ring swings back and forth",
            "a {colour} hoop sways from side to side",
            "the {colour} ring moves like a pendulum",
            "a swinging {colour} hoop",
        ),
        unseen=(
            "a {colour} ring is swaying left and right",
            "a {colour} hula hoop swings to and fro",
            "a {hue} ring swings back and forth",
        ),
    ),
}

_HUES = {
    "red": "crimson",
    "yellow": "golden",
    "green": "emerald",
    "blue": "azure",
    "pink": "magenta",
    "white": "snow-white",
}
_WAYS = {"up": "rises", "down": "sinks", "left": "left", "right": "right"}

_SHOTS: dict[str, Phrasings] = {
    "rabbit": Phrasings(
        seen=(
            "a big cartoon rabbit in a meadow",
            "a grey bunny crawls out of its burrow and stretches",
            "an animated rabbit wakes up outside its hole",
            "a fat rabbit stands on the grass",
        ),
        unseen=(
            "a chubby cartoon bunny on a green hill",
            "an animated hare yawns in front of its den",
        ),
    ),
    "passenger": Phrasings(
        seen=(
            "a man talks in a car",
            "a young man in a suit speaks inside a vehicle",
            "a man with a red bow tie sits in a car",
            "a passenger is talking to the camera",
        ),
        unseen=(
            "a guy wearing a bow tie chats in the back seat",
            "someone in a suit is speaking while riding in a car",
        ),
    ),
    "lorry": Phrasings(
        seen=(
            "a white lorry seen from above",
            "the roof of a long white vehicle on the road",
            "a camera looks straight down on a white truck",
            "a truck passes below, filmed from overhead",
        ),
        unseen=(
            "bird's-eye view of a white truck",
            "a white lorry's roof filmed from the air",
        ),
    ),
    "taxi": Phrasings(
        seen=(
            "a taxi in a traffic jam",
            "black cars stand close together",
            "dark cars and a taxi sign",
            "a taxi drives past a row of dark cars",
        ),
        unseen=(
            "a cab stuck among black cars",
            "gleaming dark vehicles queue in heavy traffic",
        ),
    ),
    "cyclist": Phrasings(
        seen=(
            "a cyclist waits at the roadside",
            "a man with a helmet stands over his bike behind a car",
            "a bike rider stops in the evening traffic",
            "a person on a bicycle next to a dark car",
        ),
        unseen=(
            "a cyclist in a helmet pauses beside the road",
            "someone sits on a bike and waits behind a car",
        ),
    ),
    "street": Phrasings(
        seen=(
            "cars drive along a street behind a railing",
            "a wide city street seen through a metal fence",
            "traffic passes behind a fence in front of old houses",
            "cars on an avenue with a green railing in front",
        ),
        unseen=(
            "city traffic rolls by on the far side of a fence",
            "vehicles pass along a boulevard beyond a metal barrier",
        ),
    ),
    "bicycle": Phrasings(
        seen=(
            "a parked bicycle leans against a wall",
            "a bike stands by an old building",
            "somebody walks past a parked bicycle",
            "a bicycle on the pavement in front of a grey wall",
        ),
        unseen=(
            "an old bike is propped against a stone wall",
            "a bicycle left on the sidewalk beside a house",
        ),
    ),
}


def phrasings(kind: Kind) -> Phrasings:
    """The sentences that describe `kind`, none of them both seen and unseen."""
    if isinstance(kind, Filmed):
        return _SHOTS[kind.shot]
    patterns = _SHAPES[kind.shape]
    return Phrasings(
        seen=tuple(_fill(pattern, kind) for pattern in patterns.seen),
        unseen=tuple(_fill(pattern, kind) for pattern in patterns.unseen),
    )


def _fill(pattern: str, kind: Drawn) -> str:
    sentence = pattern.format(
        colour=kind.colour, hue=_HUES[kind.colour], way=_WAYS.get(kind.motion, "")
    )
    return sentence.replace("a emerald", "an emerald").replace("a azure", "an azure")
