"""Tables under test that come as FDEs: laid over the regions they speak of."""

from pathlib import Path

from jitunwind.arch.machine import Machine
from jitunwind.arch.x86_64.registers import RBX, RETURN_ADDRESS, RSP, X86_64
from jitunwind.elf.image import unwind_file
from jitunwind.rows import SAME_VALUE, CfaRule, Row, SavedAt, Unknown, UnwindTable
from jitunwind.tables.sources import NOTHING_IN_FILE, from_file
from tests.support.codes import cpython_code

CODE = 0x7F00_0000_0000
GAP = Unknown("nothing is known here")


def row(offset: int) -> Row:
    kept = [(register, SAME_VALUE) for register in X86_64.callee_saved if register != RBX]
    return Row(CfaRule(RSP, offset), ((RBX, SavedAt(-16)), *kept, (RETURN_ADDRESS, SavedAt(-8))))


def read(tmp_path: Path, tables: list[tuple[int, UnwindTable]], start: int, size: int) -> UnwindTable:
    path = tmp_path / "regions.elf"
    path.write_bytes(unwind_file(Machine.X86_64, X86_64, tables, 0x1000))
    return from_file(X86_64, path).of(cpython_code(start, bytes(size), 0, 0))


def test_a_region_with_gaps_is_read_as_a_whole(tmp_path: Path) -> None:
    """GIVEN a table with Unknowns in it, WHEN it goes through a file, THEN only they become silence."""
    table = UnwindTable(64, [0, 8, 16, 24, 30, 40], [GAP, row(16), row(24), GAP, row(16), GAP])
    neighbours = [(CODE - 16, UnwindTable(16, [0], [row(32)])), (CODE + 64, UnwindTable(8, [0], [row(40)]))]
    found = read(tmp_path, [(CODE, table), *neighbours], CODE, 64)
    assert list(found.offsets) == list(table.offsets)
    assert list(found.rows) == [NOTHING_IN_FILE if each == GAP else each for each in table.rows]


def test_an_fde_may_begin_before_the_region_and_end_behind_it(tmp_path: Path) -> None:
    table = UnwindTable(64, [0, 20, 40], [row(16), row(24), row(32)])
    found = read(tmp_path, [(CODE, table)], CODE + 10, 20)
    assert (list(found.offsets), list(found.rows)) == ([0, 10], [row(16), row(24)])


def test_where_the_file_has_nothing_it_says_so(tmp_path: Path) -> None:
    found = read(tmp_path, [(CODE, UnwindTable(64, [0], [row(16)]))], CODE + 64, 20)
    assert (list(found.offsets), list(found.rows)) == ([0], [NOTHING_IN_FILE])
