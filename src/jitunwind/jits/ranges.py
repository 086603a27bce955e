"""The ranges of memory that can hold a JIT's code: executable, and of no file that is on a disk."""

from bisect import bisect_right
from collections.abc import Sequence

from jitunwind.memory import Mapping

_KERNEL = 1 << 63
_IN_MEMORY = "/memfd:"
"""What /proc/PID/maps calls memory of memfd_create(2): some JITs map their code twice, to write and to execute."""


def code_ranges(mappings: Sequence[Mapping]) -> list[Mapping]:
    """Those of a process with these mappings."""
    return [
        each
        for each in mappings
        if each.executable and (not each.path or each.path.startswith(_IN_MEMORY)) and each.start < _KERNEL
    ]


def range_around(ranges: Sequence[Mapping], address: int) -> Mapping | None:
    """The one of some rising ranges that `address` lies in."""
    index = bisect_right(ranges, address, key=lambda mapping: mapping.start) - 1
    return ranges[index] if index >= 0 and address < ranges[index].end else None
