"""What a reader may read of a record: the stack as it was, and nothing else."""

import struct
from bisect import bisect_right
from collections.abc import Sequence
from operator import itemgetter

from jitunwind.arch import Architecture
from jitunwind.audit.records import Record


class Recorded:
    """The registers and the memory of one record after the other."""

    def __init__(self, arch: Architecture) -> None:
        self._sp, self._red_zone, self._count = arch.stack_pointer, arch.red_zone, arch.program_counter + 1
        self.registers: Record = ()
        """By DWARF number."""
        self._parts: list[tuple[int, bytes]] = []

    def turn_to(self, record: Record, more: Sequence[tuple[int, bytes]]) -> None:
        """`more` is memory besides the record's own, by rising address: what lies behind it."""
        self.registers, words = record[: self._count], record[self._count :]
        own = (self.registers[self._sp] - self._red_zone, struct.pack(f"={len(words)}Q", *words))
        self._parts = [own, *more]

    def read(self, address: int, size: int) -> bytes | None:
        """None where not all of it is known."""
        found = b""
        for start, data in self._parts:
            at = address + len(found) - start
            if 0 <= at < len(data):
                found += data[at : at + size - len(found)]
                if len(found) == size:
                    return found
        return None


def is_inside(ranges: Sequence[tuple[int, int]], address: int) -> bool:
    """Whether it is in one of the ranges (start, end), which rise."""
    at = bisect_right(ranges, address, key=itemgetter(0)) - 1
    return at >= 0 and address < ranges[at][1]
