"""The two writers of ELF and DWARF, the agent's in C and the one in Python: of the same functions, readelf and
llvm-dwarfdump read the same in what both write.

The agent has to write where no Python runs; the plugin writes where no agent is.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jitunwind.arch.machine import Machine
from jitunwind.arch.x86_64.registers import RBP, RETURN_ADDRESS, RSP, X86_64
from jitunwind.dwarf.lines import Function
from jitunwind.elf.image import symbol_file, symbol_name, unwind_file
from jitunwind.publishing.described import described
from jitunwind.region import Line, Region
from jitunwind.rows import SAME_VALUE, UNDEFINED, CfaRule, InRegister, RegisterRule, Row, SavedAt, UnwindTable
from tests.support.announced import Announced, files, struct_of, with_rows
from tests.support.witnesses import LLVM, READELF, Witness, spans_read

CODE, SIZE = 0x7F00_1234_5000, 0x40
NAMES = (
    "py::f:/tmp/hot.py",  # GDB would print hot[py]
    "dot.",
    "a.b1",
    "a.é",
    "a.½x",
    "a.\udce9",
    ".hidden",
    "no dot",
    "two words.py",
    "a.b.c",
    "operator<<",
)
FILES = ("/tmp/hot.py", "hot.py", "/tmp/é.py", "<string>", "/tmp/x y.py", "f")


class Given(NamedTuple):
    """A function: its name, the size of its entry (0: none), its lines, and its table as rows by offset."""

    name: str
    entry: int
    lines: Sequence[Line]
    rows: Sequence[tuple[int, Row]]


OFFSETS = st.integers(-40, 40).map(lambda words: 8 * words)
RULES: st.SearchStrategy[RegisterRule] = (
    st.sampled_from([SAME_VALUE, UNDEFINED]) | OFFSETS.map(SavedAt) | st.integers(0, 15).map(InRegister)
)
TRACKED = (*X86_64.callee_saved, RETURN_ADDRESS)
ROWS = st.builds(
    lambda register, offset, rules: Row(
        CfaRule(register, offset), tuple(sorted(zip(TRACKED, rules, strict=True), key=lambda rule: rule[0]))
    ),
    st.sampled_from([RSP, RBP]),
    OFFSETS,
    st.lists(RULES, min_size=len(TRACKED), max_size=len(TRACKED)),
)
LINES = st.lists(
    st.builds(Line, st.integers(0, SIZE - 9), st.sampled_from(FILES), st.integers(0, (1 << 31) - 1)),
    max_size=6,
).map(lambda lines: sorted(lines, key=lambda line: line.offset))


@st.composite
def functions(draw: st.DrawFn) -> Given:
    name = draw(
        st.sampled_from(NAMES) | st.text("ab.é½1_ ", min_size=1, max_size=6).map(str.strip).filter(bool)
    )
    offsets = [0, *sorted(draw(st.sets(st.integers(1, SIZE - 1), max_size=3)))]
    rows = draw(st.lists(ROWS, min_size=len(offsets), max_size=len(offsets)))
    return Given(name, draw(st.sampled_from([0, 8])), draw(LINES), list(zip(offsets, rows, strict=True)))


PLAIN = Row(
    CfaRule(RSP, 8),
    (*((number, SAME_VALUE) for number in X86_64.callee_saved), (RETURN_ADDRESS, SavedAt(-8))),
)
EACH_NAME = [
    Given(name, 0, [Line(0, FILES[index % 6], 7)] if index % 2 else [], [(0, PLAIN)])
    for index, name in enumerate(NAMES)
]


def written_in_c(given: Sequence[Given], place: Path) -> Path:
    """What the agent publishes."""
    regions = []
    for index, each in enumerate(given):
        start = CODE + 2 * SIZE * index
        region = with_rows(start, SIZE, each.rows)
        entry = Region(start, each.entry, "entry") if each.entry else None
        body = Region(start + each.entry, SIZE - each.entry, each.name)
        names = struct_of(described(body, b"", each.lines, entry))
        for field in ("name", "entry_name", "entry_size", "lines", "line_count"):
            setattr(region, field, getattr(names, field))
        region.names = names
        regions.append(region)
    with Announced(regions):
        (image,) = files()
    place.write_bytes(image)
    return place


def written_in_python(given: Sequence[Given], place: Path) -> Path:
    """The names and lines that the plugin loads into GDB."""
    found = []
    for index, each in enumerate(given):
        start = CODE + 2 * SIZE * index
        if each.entry:
            found.append(Function("entry", start, each.entry, []))
        found.append(Function(each.name, start + each.entry, SIZE - each.entry, each.lines))
    place.write_bytes(symbol_file(Machine.X86_64, found))
    return place


def frames_in_python(given: Sequence[Given], place: Path) -> Path:
    tables = []
    for index, each in enumerate(given):
        offsets, rows = zip(*each.rows, strict=True)
        tables.append((CODE + 2 * SIZE * index, UnwindTable(SIZE, offsets, rows)))
    place.write_bytes(unwind_file(Machine.X86_64, X86_64, tables, 0x1000))
    return place


def output(*command: object) -> str:
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"needs {command[0]}")
    done = subprocess.run(
        [*map(str, command)],
        env={**os.environ, "LC_ALL": "C.UTF-8"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=True,
        errors="surrogateescape",
    )
    return done.stdout


class Unit(NamedTuple):
    """What a reader says of a unit: its attributes and those of its function; its lines."""

    attributes: tuple[str, ...]
    lines: tuple[tuple[int, str, str], ...]


def symbols(path: Path) -> set[tuple[str, ...]]:
    """Address, size, type, binding, visibility and name of each."""
    found = re.findall(
        r"^ *\d+: ([0-9a-f]{16}) +(\S+) (\w+) +(\w+) +(\w+) +\d+ (.*)$",
        output("readelf", "-sW", path),
        re.MULTILINE,
    )
    assert found
    return set(found)


def units_by_readelf(path: Path) -> dict[int, Unit]:
    lines = []
    for file, line, address in re.findall(
        r"^(\S.*?) +(\d+|-) +(?:0x)?([0-9a-f]+)(?: .*)?$",
        output("readelf", "-W", "--debug-dump=decodedline", path),
        re.MULTILINE,
    ):
        lines.append((int(address, 16), file.rpartition("/")[2], line))
    found = {}
    for text in re.split(
        r"^ *Compilation Unit @.*$", output("readelf", "-W", "--debug-dump=info", path), flags=re.MULTILINE
    )[1:]:
        attributes = re.findall(r"^ *<[0-9a-f]+> +(DW_AT_\w+) *:(.*)$", text, re.MULTILINE)
        kept = [f"{name} {_plain(value)}" for name, value in attributes if name != "DW_AT_stmt_list"]
        found.update(_unit(kept, lines))
    return found


def units_by_llvm(path: Path) -> dict[int, Unit]:
    lines = []
    for table in output("llvm-dwarfdump", "--debug-line", path).split("debug_line[")[1:]:
        names = re.findall(r'^ *name: "(.*)"$', table, re.MULTILINE)
        for address, line, file, flags in re.findall(
            r"^0x([0-9a-f]{16}) +(\d+) +\d+ +(\d+)(?: +\d+)+ *(.*)$", table, re.MULTILINE
        ):
            lines.append((int(address, 16), names[int(file)], f"{line} {flags}"))
    found = {}
    for text in re.split(
        r"^.*: Compile Unit:.*$", output("llvm-dwarfdump", "--debug-info", path), flags=re.MULTILINE
    )[1:]:
        attributes = re.findall(r"^ +(DW_AT_\w+)\s+\((.*)\)$", text, re.MULTILINE)
        kept = [f"{name} {value}" for name, value in attributes if name != "DW_AT_stmt_list"]
        found.update(_unit(kept, lines))
    return found


def _plain(value: str) -> str:
    """Without the form, and without a string's place in its section."""
    return re.sub(r"^\s*(\(\w+\)\s)?(\([^)]*offset[^)]*\):)?\s*", "", value).rstrip()


def _unit(attributes: list[str], lines: list[tuple[int, str, str]]) -> dict[int, Unit]:
    """By the address of its code, with those of `lines` that are its own."""
    low, high = (
        next(each for each in attributes if f"_{end}_pc" in each).split()[-1].strip("()")
        for end in ("low", "high")
    )
    start = int(low, 16)
    end = start + int(high, 0) if int(high, 0) < start else int(high, 0)
    own = [each for each in lines if (each[0] == end if _ends(each[2]) else start <= each[0] < end)]
    return {start: Unit(tuple(attributes), tuple(own))}


def _ends(line: str) -> bool:
    return line == "-" or "end_sequence" in line


READERS = {"readelf": units_by_readelf, "llvm-dwarfdump": units_by_llvm}


def check(
    given: Sequence[Given], place: Path, read: Callable[[Path], dict[int, Unit]], witness: Witness
) -> None:
    in_c, in_python = written_in_c(given, place / "c.elf"), written_in_python(given, place / "python.elf")
    assert symbols(in_c) == symbols(in_python)
    units, others = read(in_c), read(in_python)
    for start, unit in units.items():
        assert unit == others[start]
    needed = {  # elsewhere GDB takes the symbol's name, which is the same
        CODE + 2 * SIZE * index + each.entry
        for index, each in enumerate(given)
        if each.lines or symbol_name(each.name) != each.name
    }
    assert units.keys() == needed
    frames = frames_in_python(given, place / "frames.elf")
    assert spans_read(witness, in_c) == spans_read(witness, frames)


@pytest.mark.parametrize("witness", [READELF, LLVM], ids=lambda witness: witness.name)
def test_both_say_the_same_of_each_kind_of_name(witness: Witness, tmp_path: Path) -> None:
    check(EACH_NAME, tmp_path, READERS[witness.name], witness)
    assert len(READERS[witness.name](tmp_path / "c.elf")) > len(NAMES) / 2


@pytest.mark.parametrize("witness", [READELF, LLVM], ids=lambda witness: witness.name)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(given=st.lists(functions(), min_size=1, max_size=6))
def test_both_say_the_same(
    witness: Witness, given: list[Given], tmp_path_factory: pytest.TempPathFactory
) -> None:
    check(given, tmp_path_factory.getbasetemp(), READERS[witness.name], witness)
