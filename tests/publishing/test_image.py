"""The symbol files that debuggers read, as other people's tools read them."""

import io
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from elftools.dwarf.callframe import CIE
from elftools.elf.elffile import ELFFile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jitunwind.agent.library import GDB, Published, loaded_agent
from jitunwind.arch.x86_64.registers import RBP, RBX, RETURN_ADDRESS, RSP, X86_64
from jitunwind.publishing.described import described, frames_of
from jitunwind.region import Line, Region
from jitunwind.rows import (
    SAME_VALUE,
    UNDEFINED,
    CfaRule,
    InRegister,
    RegisterRule,
    Row,
    SavedAt,
    UnwindTable,
)
from tests.support.announced import Announced, files, with_rows
from tests.support.witnesses import PYELFTOOLS, WITNESSES, Witness, differences

MOST_REGIONS = 256
CODE = 0x7F00_1234_5000
ENTRY = Row(
    CfaRule(RSP, 8),
    (*((number, SAME_VALUE) for number in X86_64.callee_saved), (RETURN_ADDRESS, SavedAt(-8))),
)
FRAME = Row(CfaRule(RBP, 16), ((RBX, UNDEFINED), (RBP, SavedAt(-16)), (RETURN_ADDRESS, SavedAt(-8))))
FULL = UnwindTable(0x40, [0, 1], [ENTRY, FRAME])

TRACKED = (*X86_64.callee_saved, RETURN_ADDRESS)
REGISTERS = st.sampled_from([*range(16), 90, 117])
OFFSETS = st.integers(-40, 40).map(lambda words: 8 * words) | st.integers(-(1 << 63) + 1, (1 << 63) - 1)
RULES: st.SearchStrategy[RegisterRule] = (
    st.sampled_from([SAME_VALUE, UNDEFINED]) | OFFSETS.map(SavedAt) | REGISTERS.map(InRegister)
)
ROWS = st.builds(
    lambda cfa, tracked, others: Row(
        cfa, tuple(sorted({**others, **dict(zip(TRACKED, tracked, strict=True))}.items()))
    ),
    st.builds(CfaRule, st.integers(0, 15), OFFSETS),
    st.lists(RULES, min_size=len(TRACKED), max_size=len(TRACKED)),
    st.dictionaries(REGISTERS, RULES, max_size=4),
)
LENGTHS = st.integers(1, 70) | st.sampled_from([0xFFFF, 0xFFFFFFFF, 1 << 32, (1 << 32) + 1, 1 << 40])


@st.composite
def row_lists(draw: st.DrawFn) -> list[tuple[int, UnwindTable]]:
    """Tables at addresses that rise, none with a gap."""
    at, found = draw(st.sampled_from([0x1000, CODE])), []
    for rows in draw(st.lists(st.lists(ROWS, min_size=1, max_size=8), min_size=1, max_size=8)):
        lengths = draw(st.lists(LENGTHS, min_size=len(rows), max_size=len(rows)))
        offsets = [sum(lengths[:index]) for index in range(len(lengths))]
        found.append((at, UnwindTable(sum(lengths), offsets, rows)))
        at += sum(lengths) + draw(st.integers(0, 100))
    return found


def meant(table: UnwindTable) -> UnwindTable:
    """What the C interface says of such rows: a register that is not named any more has its value still."""
    named: dict[int, RegisterRule] = {}
    rows = []
    for row in table.rows:
        assert isinstance(row, Row)
        rules = {**named, **dict(row.rules)}
        named |= dict.fromkeys(rules, SAME_VALUE)
        rows.append(Row(row.cfa, tuple(sorted(rules.items(), key=lambda item: item[0]))))
    return UnwindTable(table.size, table.offsets, rows)


# pyelftools 0.33 takes the wrong factor for DW_CFA_def_cfa_sf.
@pytest.mark.parametrize(
    "witness", [w for w in WITNESSES if w is not PYELFTOOLS], ids=lambda witness: witness.name
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tables=row_lists())
def test_rows_are_read_as_they_were_given(
    witness: Witness, tables: list[tuple[int, UnwindTable]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "rows.elf"
    regions = [
        with_rows(start, table.size, [(at, row) for at, _, row in table.spans() if isinstance(row, Row)])
        for start, table in tables
    ]
    with Announced(regions):
        (image,) = files()
    path.write_bytes(image)
    assert not differences(witness, path, [(start, meant(table)) for start, table in tables])


def some(count: int, first: int = 0, lines: bool = True) -> list[Published]:
    """Regions with gaps between them, names and lines of their own."""
    return [
        described(region(index), frames_of(X86_64, region(index).start, FULL), of(index) if lines else ())
        for index in range(first, first + count)
    ]


def region(index: int) -> Region:
    return Region(CODE + 0x50 * index, FULL.size, f"py::f{index}:/tmp/é {index % 7}.py")


def of(index: int) -> list[Line]:
    """Every third has no lines; of others some go up and some down."""
    file = f"/tmp/é {index % 7}.py"
    return [Line(0, file, 1 + index), Line(7, file, 100), Line(0x20, "/tmp/b.py", 3)] if index % 3 else []


def symbols(image: bytes) -> list[tuple[str, int, int]]:
    table = ELFFile(io.BytesIO(image)).get_section_by_name(".symtab")
    return [(each.name, each["st_value"], each["st_size"]) for each in table.iter_symbols() if each.name]


def lines_read(image: bytes) -> dict[int, list[tuple[int, str, int]]]:
    """By the start of each unit's code: (address, file, line)."""
    found = {}
    dwarf = ELFFile(io.BytesIO(image)).get_dwarf_info()
    for unit in dwarf.iter_CUs():
        program = dwarf.line_program_for_CU(unit)
        names = [entry.name.decode() for entry in program.header.file_entry]
        states = [
            entry.state for entry in program.get_entries() if entry.state and not entry.state.end_sequence
        ]
        (function,) = (die for die in unit.iter_DIEs() if die.tag == "DW_TAG_subprogram")
        found[function.attributes["DW_AT_low_pc"].value] = [
            (state.address, names[state.file], state.line) for state in states
        ]
    return found


def output(*command: object) -> str:
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"needs {command[0]}")
    done = subprocess.run([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.stdout.decode(errors="replace")


def check_with_tools(image: bytes, path: Path) -> None:
    path.write_bytes(image)
    read = output("readelf", "-aW", "--debug-dump=info,abbrev,decodedline,frames", path)
    assert not [line for line in read.splitlines() if re.search("[Ww]arning|[Ee]rror", line)]
    verified = output("llvm-dwarfdump", "--verify", path)
    assert "No errors." in verified
    assert not [line for line in verified.splitlines() if "warning" in line]


@pytest.mark.parametrize("count", [1, 2, MOST_REGIONS - 1, MOST_REGIONS, MOST_REGIONS + 1, 3 * MOST_REGIONS])
def test_files_hold_all_regions_and_tools_find_no_fault(tmp_path: Path, count: int) -> None:
    """GIVEN regions for one file, or just more, THEN each is in one file, with its name, its section and its lines,
    and neither readelf nor llvm-dwarfdump has anything to complain of."""
    before = loaded_agent().statistics()
    with Announced(some(count)):
        images = files()
        assert loaded_agent().statistics().files == before.files + len(images)
    assert len(images) == -(-count // MOST_REGIONS)
    found = [each for image in images for each in symbols(image)]
    wanted = [region(index) for index in range(count)]
    assert [(each.start, each.size) for each in wanted] == sorted((at, size) for _, at, size in found)
    assert len({name for name, _, _ in found}) == count
    lines = {start: rows for image in images for start, rows in lines_read(image).items()}
    assert lines == {
        region(index).start: [(region(index).start + offset, file, line) for offset, file, line in of(index)]
        for index in range(count)
    }
    for image in images:
        texts = [each for each in ELFFile(io.BytesIO(image)).iter_sections() if each.name.startswith(".text")]
        assert {(each["sh_addr"], each["sh_size"]) for each in texts} == {
            (at, n) for _, at, n in symbols(image)
        }
        assert all(each["sh_type"] == "SHT_NOBITS" for each in texts)
        check_with_tools(image, tmp_path / "image.elf")
    assert not files()
    assert loaded_agent().statistics().regions == before.regions


def test_neighbours_share_a_section() -> None:
    """GIVEN regions of which some lie side by side, THEN a `.text` is for those without a gap, in whatever order they
    came."""
    starts = [CODE + FULL.size * index for index in (5, 0, 2, 1, 4, 9)]
    regions = [Region(start, FULL.size, "f") for start in starts]
    with Announced([described(each, frames_of(X86_64, each.start, FULL)) for each in regions]):
        (image,) = files()
    elf = ELFFile(io.BytesIO(image))
    texts = [each for each in elf.iter_sections() if each.name.startswith(".text")]
    assert [((each["sh_addr"] - CODE) // FULL.size, each["sh_size"] // FULL.size) for each in texts] == [
        (0, 3),
        (4, 2),
        (9, 1),
    ]
    for each in elf.get_section_by_name(".symtab").iter_symbols():
        if each.name:
            text = elf.get_section(each["st_shndx"])
            assert text["sh_addr"] <= each["st_value"] < text["sh_addr"] + text["sh_size"]


def test_what_regions_share_stands_once() -> None:
    """GIVEN regions of one function, that come one after the other, THEN its names and the CIE are there once."""
    name = "py::f:/tmp/shared.py"
    handles = []
    for index in range(20):
        one = region(index)._replace(name=name)
        lines = [Line(0, "/tmp/shared.py", 1), Line(1, "/tmp/other.py", 2)]
        handles += loaded_agent().publish([described(one, frames_of(X86_64, one.start, FULL), lines)], (GDB,))
    (image,) = files()
    assert image.count(name.encode() + b"\0") == image.count(name.encode() + b" \0") == 1
    assert image.count(b"shared.py\0") == image.count(b"/tmp/other.py\0") == 1
    frames = list(ELFFile(io.BytesIO(image)).get_dwarf_info().EH_CFI_entries())
    assert [isinstance(each, CIE) for each in frames] == [True, *[False] * 20]
    loaded_agent().withdraw(handles)


LINES = st.lists(st.tuples(st.integers(0, 300), st.integers(0, (1 << 31) - 1)), min_size=1, max_size=400)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(lines=LINES, entry=st.integers(0, 200))
def test_lines_are_read_as_they_were_given(lines: list[tuple[int, int]], entry: int) -> None:
    """GIVEN up to 301 files, and lines that go up and down as far as they can, and stand still."""
    rows = [Line(200 * index, f"/tmp/{file}.py", line) for index, (file, line) in enumerate(lines)]
    size = 200 * len(rows) + 1
    before = Region(CODE - entry, entry, "entry") if entry else None
    with Announced([described(Region(CODE, size, "f"), b"", rows, before)]):
        (image,) = files()
    found = lines_read(image)[CODE]
    assert found == [(CODE + offset, file, line) for offset, file, line in rows]


def test_a_file_is_replaced_when_regions_come_and_go(tmp_path: Path) -> None:
    """GIVEN files that lose and get regions, THEN they hold what is published, and no file is left that is empty."""
    first = loaded_agent().publish(some(MOST_REGIONS), (GDB,))
    second = loaded_agent().publish(some(10, MOST_REGIONS), (GDB,))
    assert [len(symbols(image)) for image in files()] == [10, MOST_REGIONS]
    loaded_agent().withdraw(first[::2])
    loaded_agent().withdraw(second)
    (image,) = files()
    assert sorted(at for _, at, _ in symbols(image)) == [region(i).start for i in range(1, MOST_REGIONS, 2)]
    check_with_tools(image, tmp_path / "half.elf")
    third = loaded_agent().publish(some(20, 2 * MOST_REGIONS, lines=False), (GDB,))
    assert [len(symbols(image)) for image in files()] == [MOST_REGIONS // 2 + 20], "there was room"
    check_with_tools(files()[0], tmp_path / "more.elf")
    loaded_agent().withdraw(first[1::2])
    (image,) = files()
    assert not any(lines_read(image).values())
    loaded_agent().withdraw(third)
    assert not files()


def test_an_entry_has_a_name_of_its_own(tmp_path: Path) -> None:
    """GIVEN regions of which some begin with an entry, WHEN their file is made anew, THEN each part has its name."""

    def entered(index: int) -> Published:
        whole = region(index)
        entry, body = (
            Region(whole.start, 8, f"entry{index // 4}"),
            Region(whole.start + 8, whole.size - 8, whole.name),
        )
        return described(body, frames_of(X86_64, whole.start, FULL), [Line(0, "/tmp/a.py", index)], entry)

    handles = loaded_agent().publish(
        [entered(index) if index % 2 else some(1, index)[0] for index in range(10)], (GDB,)
    )
    more = loaded_agent().publish([entered(11)], (GDB,))
    (image,) = files()
    wanted = [(region(index).start, region(index).size) for index in range(0, 10, 2)]
    for each in map(region, (*range(1, 10, 2), 11)):
        wanted += [(each.start, 8), (each.start + 8, each.size - 8)]
    found = {(at, size): name for name, at, size in symbols(image)}
    assert sorted(found) == sorted(wanted)
    assert [found[region(index).start, 8] for index in (1, 3, 5, 7, 9, 11)] == [
        *("entry0", "entry0", "entry1", "entry1", "entry2", "entry2")
    ]
    assert found[region(9).start + 8, region(9).size - 8].strip() == region(9).name
    assert lines_read(image)[region(11).start + 8] == [(region(11).start + 8, "/tmp/a.py", 11)]
    check_with_tools(image, tmp_path / "entries.elf")
    loaded_agent().withdraw([*handles, *more])


def test_a_file_that_has_lost_half_is_filled_again() -> None:
    handles = loaded_agent().publish(some(3 * MOST_REGIONS, lines=False), (GDB,))
    loaded_agent().withdraw(handles[: MOST_REGIONS // 2 - 1])
    more = loaded_agent().publish(some(1, 4 * MOST_REGIONS), (GDB,))
    assert sorted(len(symbols(image)) for image in files()) == [
        1,
        MOST_REGIONS // 2 + 1,
        MOST_REGIONS,
        MOST_REGIONS,
    ]
    loaded_agent().withdraw([*handles[MOST_REGIONS // 2 - 1 :], *more])
    assert not files()
