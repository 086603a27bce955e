"""A region as the agent publishes it: its name, its table and its lines, in the forms that others read."""

from collections.abc import Sequence

from jitunwind.agent.library import Published
from jitunwind.arch import Architecture
from jitunwind.dwarf.encode import eh_frame
from jitunwind.region import Line, Region
from jitunwind.rows import Row, Unknown, UnwindTable


def frames_of(arch: Architecture, start: int, table: UnwindTable) -> bytes:
    """The `.eh_frame` of a region at `start`, to lie anywhere. ValueError for a table that `eh_frame` refuses."""
    return eh_frame(arch, [(start, _in_one_piece(arch, table))])


def described(
    region: Region,
    frames: bytes,
    lines: Sequence[Line] = (),
    before: Region | None = None,
    perf_frames: bytes = b"",
) -> Published:
    """What to publish of `region`, whose `.eh_frame` is `frames`; `lines` count from its start.

    `before` is code that ends where it starts, of which `frames` tell, too: they are published as one.
    `perf_frames` is the `.eh_frame` for perf, if that is another one.
    """
    entry = before or Region(region.start, 0, "")
    size = region.end - entry.start
    return Published(entry.start, size, region.name, entry.name, entry.size, frames, lines, perf_frames)


def _in_one_piece(arch: Architecture, table: UnwindTable) -> UnwindTable:
    """`table` with a row in the place of each `Unknown` between rows: that before it, with no return address.

    So one FDE describes the region: LLDB uses the FDE at a function's start for all of the function. No path leads to
    such code. Where the return address is undefined, unwinders end the walk (DWARF 5 section 6.4.4).
    """
    rows = list(table.rows)
    while rows and isinstance(rows[-1], Unknown):
        rows.pop()
    for index, row in enumerate(rows):
        before = rows[index - 1] if index else row
        if isinstance(row, Unknown) and isinstance(before, Row):
            rules = tuple(each for each in before.rules if each[0] != arch.return_address)
            rows[index] = Row(before.cfa, rules, before.signed)
    return UnwindTable(table.size, table.offsets, [*rows, *table.rows[len(rows) :]])
