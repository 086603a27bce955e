"""The ranges of memory that can hold a JIT's code: executable, and of no file that is on a disk."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence

from jitunwind.errors import UnreadableMemory
from jitunwind.memory import ADDRESS_LIMIT, Mapping, Memory

_KERNEL = 1 << 63
_IN_MEMORY = "/memfd:"
"""What /proc/PID/maps calls memory of memfd_create(2): some JITs map their code twice, to write and to execute."""
_ELF = b"\x7fELF"


def code_ranges(memory: Memory) -> list[Mapping]:
    """Those of a process."""
    return list(_code_ranges(memory, memory.mappings()))


def _code_ranges(memory: Memory, mappings: Sequence[Mapping]) -> Iterator[Mapping]:
    begin: Mapping | None = None
    """The first of neighbours that are of one file in memory."""
    end = 0
    for each in mappings:
        is_in_memory = each.path.startswith(_IN_MEMORY)
        if begin is None or each.path != begin.path or each.start != end:
            begin = each if is_in_memory else None
        end = each.end
        may_be = each.executable and each.start < _KERNEL and (not each.path or is_in_memory)
        if may_be and (begin is None or not _is_image(memory, begin.start)):
            yield each


def _is_image(memory: Memory, address: int) -> bool:
    """Whether a program or library begins there: one that was executed or loaded from a file in memory."""
    try:
        return memory.checked_read(address, len(_ELF)) == _ELF
    except UnreadableMemory:
        return False


def range_around(ranges: Sequence[Mapping], address: int) -> Mapping | None:
    """The one of some rising ranges that `address` lies in."""
    index = bisect_right(ranges, (address, ADDRESS_LIMIT)) - 1  # no range compares as more that begins there
    return ranges[index] if index >= 0 and address < ranges[index].end else None
