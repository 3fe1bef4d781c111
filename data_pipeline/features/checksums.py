"""Are stored bytes what was written? An index names the kind of its checksums.

They are compared at every read. That a shard is the one of its manifest is for its SHA-256 to say.
"""

from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import NDArray

from data_pipeline.errors import InputError
from data_pipeline.untrusted import shown

XXH3 = "xxh3-64"
"""XXH3 in 64 bits: any altered, moved or exchanged byte changes it. It costs a seventh of what
reading the bytes from the page cache costs; the sum, by torch, cost a quarter."""
SUM = "sum-64"
"""The sum of the 64-bit little-endian words, the last filled up with zeros: blind to their order.
Indexes that name no kind hold sums; none are written any more."""

Half = NDArray[np.float16]


@dataclass(frozen=True)
class Checksums:
    """Checksums of one `kind` of the stored bytes: of the video's features, of the text features of
    each query, of the JSON member, and of the joint vectors where there are any."""

    video: int
    text: tuple[int, ...]
    json: int
    joint: int | None = None
    kind: str = XXH3


def checksum(data: memoryview | bytes | Half, kind: str = XXH3) -> int:
    """The checksum of contiguous bytes, from 0 to below 2^64."""
    if kind == XXH3:
        # NumPy's stubs tell of its arrays' buffers from Python 3.12 on.
        return xxhash.xxh3_64_intdigest(data)  # type: ignore[arg-type]
    raw = np.frombuffer(data, np.uint8)
    whole = raw.size // 8 * 8
    total = int(raw[:whole].view("<u8").sum())
    if whole < raw.size:
        total += int.from_bytes(raw[whole:].tobytes(), "little")
    return total % 2**64


def kind_of(index: dict[str, object], source: object) -> str:
    """The kind of an index's checksums; InputError, naming `source`, for one not known here."""
    kind = index.get("checksum", SUM)
    if kind not in (XXH3, SUM):
        raise InputError(
            f"{source}: has checksums of a kind that is not known here, {shown(kind)}; update sdst"
        )
    return str(kind)


def check_values(name: str, values: memoryview | Half, expected: int, kind: str) -> None:
    """Raises ValueError unless the checksum of features is `expected`."""
    if checksum(values, kind) == expected:
        return
    if not np.isfinite(np.frombuffer(values, dtype=np.float16)).all():
        raise ValueError(f"its {name} features were altered and hold values that are not finite")
    raise ValueError(f"its {name} features are not what was written")
