"""A region as the agent publishes it: its name, its table and its lines, in the forms that others read."""

from collections.abc import Sequence

from jitunwind.agent.library import RegionStruct
from jitunwind.arch import Architecture
from jitunwind.dwarf.encode import eh_frame
from jitunwind.dwarf.lines import ABBREVIATIONS, Function, Line, unit
from jitunwind.elf.image import symbol_name
from jitunwind.region import Region
from jitunwind.rows import Row, Unknown, UnwindTable


def described(
    arch: Architecture, region: Region, table: UnwindTable | None, lines: Sequence[Line] = ()
) -> RegionStruct:
    """What to publish of `region`, with offsets in `table` and `lines` that count from its start.

    ValueError for a table that `eh_frame` refuses.
    """
    struct = RegionStruct(start=region.start, size=region.size, name=_bytes(symbol_name(region.name)))
    if table is not None:
        frames = eh_frame(arch, [(region.start, _in_one_piece(table))])
        struct.eh_frame, struct.eh_frame_size = frames, len(frames)
    info, line, struct.stmt_list_at = unit(Function(region.name, region.start, region.size, lines))
    struct.debug_info, struct.debug_info_size = info, len(info)
    struct.debug_line, struct.debug_line_size = line, len(line)
    struct.debug_abbrev, struct.debug_abbrev_size = ABBREVIATIONS, len(ABBREVIATIONS)
    return struct


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


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape").replace(b"\0", b"?")
