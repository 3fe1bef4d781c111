"""Does a file end where its own structure says, and is it one recording?"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import IO

TAIL = 64 * 2**20
"""Bytes after the last packet that are searched."""

_HEADS = {
    "mov,mp4,m4a,3gp,3g2,mj2": rb"\0\0\0.ftyp[ -~]{4}",
    "matroska,webm": rb"\x1a\x45\xdf\xa3.{0,80}(matroska|webm)",
    "flv": rb"FLV\x01.\0\0\0\x09",
    "asf": rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c",
    "nut": rb"nut/multimedia container\0",
    "wtv": rb"\xb7\xd8\x00\x20\x37\x49\xda\x11\xa6\x4e\x00\x07\xe9\x5e\xad\x8d",
    "gif": rb"GIF8[79]a",
    "ivf": rb"DKIF\0\0\x20\0",
    "swf": rb"FWS[\x01-\x30]",
    "rm": rb"\.RMF\0\0\0\x12",
}
"""With what files begin whose demuxers stop where one ends, by FFmpeg's name of the container."""


MOST_PARTS = 1 << 20
"""Parts that are followed, some seconds' work: a day in fragments of a second has 200,000. Of more,
where the file should end is not known."""


def following_recording(path: Path, container: str, read: int) -> int:
    """Where after byte `read`, the end of what was read, another recording begins; 0 if none."""
    if container not in _HEADS or not read:
        return 0
    if container == "nut":  # its demuxer does not stop at once
        read = 1
    with path.open("rb") as file:
        file.seek(read)
        found = re.search(_HEADS[container], file.read(TAIL), re.DOTALL)
    return read + found.start() if found else 0


def is_whole(path: Path, container: str) -> bool:
    """Whether the parts that a file of this FFmpeg container is made of end where it ends.

    False also where a container does not say how long its parts are.
    """
    if container not in _ENDS:
        return False
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        return _ENDS[container](file, size) == size


def missing_share(path: Path, container: str) -> float:
    """The share of a file that its parts say is there, behind its end; 0 where they do not say."""
    if container not in _ENDS:
        return 0.0
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        said = _ENDS[container](file, size) or size
    return max(0.0, 1 - size / said)


def _flv(file: IO[bytes], size: int) -> int | None:
    """Each tag is followed by its length: the last one's leads back to a tag of that length."""
    file.seek(max(0, size - 4))
    length = int.from_bytes(file.read(4), "big")
    file.seek(max(0, size - 4 - length))
    tag = file.read(4)
    ends = tag[:1] in (b"\x08", b"\x09", b"\x12") and int.from_bytes(tag[1:], "big") + 11 == length
    return size if ends else None


def _boxes(file: IO[bytes], size: int) -> int | None:
    """MP4: the boxes of the outermost level follow each other up to the end."""
    place = 0
    for _ in range(MOST_PARTS):
        if place >= size:
            return place
        file.seek(place)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:], "big")
        if length < 8 or (place + length > size and head[4:8] not in _LARGE):
            return None
        place += length
    return None


_LARGE = (b"mdat", b"moof", b"moov")
"""Boxes that a cut goes through; elsewhere what follows the last one was never a box."""


def _riff(file: IO[bytes], size: int) -> int | None:
    """AVI: as MP4, in pieces of at most some gigabytes."""
    place = 0
    for _ in range(MOST_PARTS):
        if place + 8 > size:
            return place
        file.seek(place)
        head = file.read(8)
        if head[:4] != b"RIFF" or head[4:] == b"\xff" * 4:  # not known when it was written
            return None
        place += 8 + int.from_bytes(head[4:], "little")
    return None


def _ebml(file: IO[bytes], size: int) -> int | None:
    """Matroska: a header, and the segment that holds all else."""
    place = 0
    for _ in range(MOST_PARTS):
        if place >= size:
            return place
        file.seek(place)
        head = file.read(12)
        identity = 9 - head[0].bit_length()  # leading zeros tell how long a number is
        length = 9 - head[identity].bit_length() if identity < min(len(head), 5) else 9
        if length > 8 or head[:identity] not in _OUTERMOST:
            return None
        value = int.from_bytes(head[identity : identity + length], "big") - (1 << 7 * length)
        if value == (1 << 7 * length) - 1:  # not known when it was written
            return None
        place += identity + length + value
    return None


_OUTERMOST = (b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67", b"\xec")
"""Matroska's header, its segment, and what is left void; what else follows was never a part."""


def _asf(file: IO[bytes], size: int) -> int | None:
    """The header's file properties tell the size."""
    file.seek(0)
    head = file.read(64 * 1024)
    place = head.find(bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365"))
    return int.from_bytes(head[place + 40 : place + 48], "little") if place >= 0 else None


_ENDS: dict[str, Callable[[IO[bytes], int], int | None]] = {
    "flv": _flv,
    "mov,mp4,m4a,3gp,3g2,mj2": _boxes,
    "avi": _riff,
    "matroska,webm": _ebml,
    "asf": _asf,
}
"""Where a file of so many bytes should end by what it says itself, by FFmpeg's container."""
