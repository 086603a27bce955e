"""A region: one contiguous range of JIT machine code, and what is known of it; the lines of its source."""

from enum import StrEnum
from typing import NamedTuple


class RegionKind(StrEnum):
    """What part of a JIT a region is."""

    JIT = "jit"
    SHIM = "shim"


class Region(NamedTuple):
    """`size` bytes of machine code at address `start` (64-bit), called `name`."""

    start: int
    size: int
    name: str
    kind: RegionKind = RegionKind.JIT

    @property
    def end(self) -> int:
        return self.start + self.size

    def __contains__(self, address: object) -> bool:
        return isinstance(address, int) and self.start <= address < self.start + self.size


class Line(NamedTuple):
    """From `offset` in the region on (bytes), to the next one, the code is `line` of `filename`."""

    offset: int
    filename: str
    line: int
