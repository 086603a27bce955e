"""A region as the agent publishes it: its name, its table and its lines, in the forms that others read."""

from collections.abc import Sequence

from jitunwind.agent.library import Published
from jitunwind.arch import Architecture
from jitunwind.dwarf.encode import eh_frame
from jitunwind.region import Line, Region
from jitunwind.rows import Row, Unknown, UnwindTable


def frames_of(arch: Architecture, start: int, table: UnwindTable) -> bytes:
    """The `.eh_frame` of a region at `start`, to lie anywhere. ValueError for a table that `eh_frame` refuses."""
    return eh_frame(arch, [(start, _in_one_piece(table))])


def described(
    region: Region, frames: bytes, lines: Sequence[Line] = (), before: Region | None = None
) -> Published:
    """What to publish of `region`, whose `.eh_frame` is `frames`; `lines` count from its start.

    `before` is code that ends where it starts, of which `frames` tell, too: they are published as one.
    """
    entry = before or Region(region.start, 0, "")
    size = region.end - entry.start
    return Published(entry.start, size, region.name, entry.name, entry.size, frames, lines)


def _in_one_piece(table: UnwindTable) -> UnwindTable:
    """`table` with rows that say that nothing is known in the places of `Unknown`s between others.

    That makes one FDE of it: LLDB takes the one that a function begins with for all of it. A return address that is
    undefined has no recoverable value (DWARF 5 section 6.4.1), so unwinders end there as they would without an FDE.
    """
    rows = list(table.rows)
    while rows and isinstance(rows[-1], Unknown):
        rows.pop()
    before: Row | Unknown = table.rows[0]
    for index, row in enumerate(rows):
        if isinstance(row, Unknown) and isinstance(before, Row):
            rows[index] = Row(before.cfa, ())
        before = rows[index]
    return UnwindTable(table.size, table.offsets, [*rows, *table.rows[len(rows) :]])
