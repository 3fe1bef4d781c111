"""May pictures of an H.264 stream be coded as two fields, each in a packet of its own?"""

from collections.abc import Iterator

_HIGH = {100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135}
"""Profiles whose parameters tell of colours and scaling."""


def may_hold_fields(extradata: bytes | None) -> bool:
    """Whether a stream's parameters allow it; True also where they cannot be read."""
    try:
        sets = list(_parameter_sets(extradata or b""))
        return not sets or not all(_only_frames(parameters) for parameters in sets)
    except (IndexError, ValueError):  # they end too early
        return True


def announces_fields(head: bytes) -> bool:
    """Whether the beginning of a packet between start codes holds parameters that allow it."""
    try:
        return not all(map(_only_frames, _parameter_sets(head)))
    except (IndexError, ValueError):
        return False


def _parameter_sets(extradata: bytes) -> Iterator[bytes]:
    """The sequence parameter sets, as MP4 keeps them or between start codes."""
    if extradata[:1] == b"\x01":
        place = 6
        for _ in range(extradata[5] & 31):
            size = int.from_bytes(extradata[place : place + 2], "big")
            yield extradata[place + 2 : place + 2 + size]
            place += 2 + size
    else:
        yield from (unit for unit in extradata.split(b"\0\0\1") if unit[:1] and unit[0] & 31 == 7)


class _Bits:
    """Reads numbers of so many bits, and those whose length is coded with them (Exp-Golomb)."""

    def __init__(self, data: bytes) -> None:
        self._bits = "".join(f"{byte:08b}" for byte in data)
        self._place = 0

    def fixed(self, count: int) -> int:
        self._place += count
        return int(self._bits[self._place - count : self._place], 2)

    def coded(self) -> int:
        zeros = self._bits.index("1", self._place) - self._place
        self._place += zeros
        return self.fixed(zeros + 1) - 1

    def signed(self) -> int:
        number = self.coded()
        return (number + 1) // 2 if number % 2 else -(number // 2)


def _only_frames(parameters: bytes) -> bool:
    """frame_mbs_only_flag of a sequence parameter set (ITU-T H.264, 7.3.2.1.1)."""
    bits = _Bits(parameters[1:].replace(b"\0\0\3", b"\0\0"))
    profile = bits.fixed(8)
    bits.fixed(16)  # constraints, level
    bits.coded()  # its number
    if profile in _HIGH:
        colours = bits.coded()
        if colours == 3:
            bits.fixed(1)
        bits.coded(), bits.coded(), bits.fixed(1)  # depths, transform bypass
        if bits.fixed(1):
            for number in range(12 if colours == 3 else 8):
                if bits.fixed(1):
                    _pass_scaling_list(bits, 16 if number < 6 else 64)
    bits.coded()  # length of frame numbers
    order = bits.coded()
    if order == 0:
        bits.coded()
    elif order == 1:
        bits.fixed(1), bits.signed(), bits.signed()
        for _ in range(bits.coded()):
            bits.signed()
    bits.coded(), bits.fixed(1)  # reference frames, gaps
    bits.coded(), bits.coded()  # width, height
    return bool(bits.fixed(1))


def _pass_scaling_list(bits: _Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.signed()) % 256
        last = following or last
