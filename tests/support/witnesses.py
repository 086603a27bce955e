"""Four readers of call frame information: our decoder, readelf, llvm-dwarfdump and pyelftools, in one form.

Each takes an ELF file with `.eh_frame` and gives its FDEs, rows included. What the other tools cannot tell apart, or
cannot print, `can_say` takes out of a row: of what they say, and of what they should say.
"""

import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from elftools.dwarf.callframe import FDE
from elftools.elf.elffile import ELFFile

from jitunwind.arch.x86_64.registers import NAMES, RETURN_ADDRESS, X86_64
from jitunwind.rows import (
    SAME_VALUE,
    UNDEFINED,
    CfaRule,
    InRegister,
    RegisterRule,
    Row,
    SavedAt,
    Unknown,
    UnwindTable,
)
from jitunwind.tables.sources import decoded, sections_in

EXPRESSION = Unknown("by an expression")
_NUMBERS = {name: number for number, name in enumerate(NAMES)} | {"ra": RETURN_ADDRESS}


class Described(NamedTuple):
    """An FDE: the code [start, end), and its rows by address; no rows: the reader cannot read it."""

    start: int
    end: int
    rows: Mapping[int, Row | Unknown]


Span = tuple[int, int, Row | Unknown]
"""[start, end) and the row that holds there."""


@dataclass(frozen=True)
class Witness:
    name: str
    read: Callable[[Path], Iterable[Described]]
    can_say: Callable[[Row], Row]


def spans_read(witness: Witness, path: Path) -> list[Span]:
    """What `witness` says of each address."""
    spans: list[Span] = []
    for start, end, rows in witness.read(path):
        assert rows, f"{witness.name} cannot read the FDE of {start:#x}"
        places = sorted(rows)
        for at, until in zip(places, [*places[1:], end], strict=True):
            row = rows[at]
            spans.append((at, until, witness.can_say(row) if isinstance(row, Row) else row))
    return _joined(spans)


def spans_meant(witness: Witness, tables: Iterable[tuple[int, UnwindTable]]) -> list[Span]:
    """What it has to say when the file holds `tables` (address, table): nothing where there is no row."""
    tracked = dict.fromkeys((*X86_64.callee_saved, RETURN_ADDRESS), UNDEFINED)
    spans: list[Span] = []
    for start, table in tables:
        for at, until, row in table.spans():
            if isinstance(row, Row):
                whole = _row(row.cfa, {**tracked, **dict(row.rules)})
                spans.append((start + at, start + until, witness.can_say(whole)))
    return _joined(spans)


def differences(witness: Witness, path: Path, tables: Iterable[tuple[int, UnwindTable]]) -> list[str]:
    """Where `witness` says of the file what `tables` do not mean; each with the two rows."""
    found, meant = set(spans_read(witness, path)), set(spans_meant(witness, tables))
    wrong = [(span, "reads") for span in found - meant] + [(span, "should read") for span in meant - found]
    return [f"{a:#x}..{b:#x} {witness.name} {what} {row}" for (a, b, row), what in sorted(wrong, key=str)]


def _joined(spans: list[Span]) -> list[Span]:
    """`spans` by rising address, neighbours of one row as one, and without empty ones."""
    joined: list[Span] = []
    for start, end, row in sorted(spans, key=lambda span: span[:2]):
        if joined and joined[-1][1:] == (start, row):
            joined[-1] = (joined[-1][0], end, row)
        elif start < end:
            joined.append((start, end, row))
    return joined


def _row(cfa: CfaRule, rules: Mapping[int, RegisterRule]) -> Row:
    return Row(cfa, tuple(sorted(rules.items(), key=lambda item: item[0])))


def _as_it_is(row: Row) -> Row:
    return row


# jitunwind


def _read_by_us(path: Path) -> Iterator[Described]:
    for start, size, table in decoded(sections_in(path.read_bytes()), X86_64):
        rows = {start + offset: row for offset, row in zip(table.offsets, table.rows, strict=True)}
        yield Described(start, start + size, rows)


# pyelftools


def _read_by_pyelftools(path: Path) -> Iterator[Described]:
    with path.open("rb") as stream:
        for entry in ELFFile(stream).get_dwarf_info().EH_CFI_entries():
            if isinstance(entry, FDE):
                start = entry["initial_location"]
                end = start + entry["address_range"]
                try:
                    lines = entry.get_decoded().table
                except ValueError:  # pyelftools 0.33 stumbles over DW_CFA_GNU_args_size
                    lines = []
                rows = {line["pc"]: _row_of_pyelftools(line) for line in lines if start <= line["pc"] < end}
                yield Described(start, end, rows)


def _row_of_pyelftools(line: dict[Any, Any]) -> Row | Unknown:
    if line["cfa"].expr is not None:
        return EXPRESSION
    rules: dict[int, RegisterRule] = {}
    for register, rule in line.items():
        if not isinstance(register, int):
            continue
        if rule.type in ("EXPRESSION", "VAL_EXPRESSION"):
            return EXPRESSION
        rules[register] = {
            "UNDEFINED": lambda _: UNDEFINED,
            "SAME_VALUE": lambda _: SAME_VALUE,
            "OFFSET": SavedAt,
            "REGISTER": InRegister,
        }[rule.type](rule.arg)
    return _row(CfaRule(line["cfa"].reg, line["cfa"].offset), rules)


# readelf: a column for each register that the CIE or the FDE mentions, `u` both for undefined and for unspecified;
# offsets of the CFA have 32 bits. Of an FDE without instructions it prints no rows: the CIE's hold.


def _read_by_readelf(path: Path) -> Iterator[Described]:
    output = _output("readelf", "--debug-dump=frames-interp", path)
    initial: dict[int, Row | Unknown] = {}
    for block in output.split("\n\n"):
        cie = re.search(r"^([0-9a-f]+) \S+ \S+ CIE ", block, re.MULTILINE)
        fde = re.search(r" FDE cie=([0-9a-f]+) pc=([0-9a-f]+)\.\.([0-9a-f]+)", block)
        rows = _rows_of_readelf(block)
        if cie is not None and rows:
            initial[int(cie[1], 16)] = rows[0]
        elif fde is not None:
            of_cie, start, end = (int(number, 16) for number in fde.groups())
            yield Described(start, end, rows or {start: initial[of_cie]})


def _rows_of_readelf(block: str) -> dict[int, Row | Unknown]:
    lines = block.splitlines()
    title = next((index for index, line in enumerate(lines) if line.lstrip().startswith("LOC")), None)
    if title is None:
        return {}
    columns = lines[title].split()[2:]
    found: dict[int, Row | Unknown] = {}
    for line in lines[title + 1 :]:
        place, cfa, *cells = re.sub(r" \(\w+\)", "", line).split()
        found[int(place, 16)] = _row_of_readelf(cfa, dict(zip(columns, cells, strict=True)))
    return found


def _row_of_readelf(cfa: str, cells: Mapping[str, str]) -> Row | Unknown:
    if cfa == "exp" or not {"exp", "vexp"}.isdisjoint(cells.values()):
        return EXPRESSION
    rules: dict[int, RegisterRule] = {}
    for column, cell in cells.items():
        if cell == "s":
            rules[_number(column)] = SAME_VALUE
        elif re.match(r"c[+-]", cell):
            rules[_number(column)] = SavedAt(int(cell[1:]))
        elif cell != "u":
            rules[_number(column)] = InRegister(_number(cell))
    return _row(_cfa(cfa), rules)


def _readelf_can_say(row: Row) -> Row:
    rules = {register: rule for register, rule in row.rules if rule != UNDEFINED}
    return _row(CfaRule(row.cfa.register, _in_32_bits(row.cfa.offset)), rules)


# llvm-dwarfdump: all offsets have 32 bits, and DW_CFA_restore_state of LLVM 14 forgets the CFA.


def _read_by_llvm(path: Path) -> Iterator[Described]:
    start = end = None
    rows: dict[int, Row | Unknown] = {}
    for line in _output("llvm-dwarfdump", "--eh-frame", path).splitlines():
        fde = re.search(r" FDE cie=\w+ pc=([0-9a-f]+)\.\.\.([0-9a-f]+)", line)
        row = re.match(r" +0x([0-9a-f]+): CFA=([^:]+): ?(.*)", line)
        if fde is not None:
            if start is not None and end is not None:
                yield Described(start, end, rows)
            start, end, rows = int(fde[1], 16), int(fde[2], 16), {}
        elif row is not None:
            rows[int(row[1], 16)] = _row_of_llvm(row[2], row[3])
    if start is not None and end is not None:
        yield Described(start, end, rows)


def _row_of_llvm(cfa: str, text: str) -> Row | Unknown:
    if "DW_OP_" in cfa + text:
        return EXPRESSION
    rules: dict[int, RegisterRule] = {}
    for each in filter(None, text.split(", ")):
        name, rule = each.split("=", 1)
        saved = re.fullmatch(r"\[CFA([+-]\d+)?\]", rule)
        rules[_number(name)] = (
            SavedAt(int(saved[1] or 0))
            if saved
            else {"same": SAME_VALUE, "undefined": UNDEFINED}.get(rule) or InRegister(_number(rule))
        )
    return _row(_cfa(cfa), rules)


def _llvm_can_say(row: Row) -> Row:
    rules = {
        register: SavedAt(_in_32_bits(rule.offset)) if isinstance(rule, SavedAt) else rule
        for register, rule in row.rules
    }
    return _row(CfaRule(0, 0), rules)


def _in_32_bits(offset: int) -> int:
    return (offset + (1 << 31)) % (1 << 32) - (1 << 31)


def _cfa(text: str) -> CfaRule:
    name, offset = re.fullmatch(r"(\w+)([+-]\d+)?", text).groups()  # type: ignore[union-attr]
    return CfaRule(_number(name), int(offset or 0))


def _number(name: str) -> int:
    """The DWARF number of a register by its name; those without a name are called `r90` or `reg90`."""
    known = _NUMBERS.get(name.lower())
    return known if known is not None else int(re.fullmatch(r"r(?:eg)?(\d+)", name)[1])  # type: ignore[index]


def _output(tool: str, *arguments: object) -> str:
    if shutil.which(tool) is None:
        pytest.skip(f"needs {tool}")
    # readelf exits with 1 where it misses a debug file
    return subprocess.run([tool, *map(str, arguments)], capture_output=True, text=True).stdout


JITUNWIND = Witness("jitunwind", _read_by_us, _as_it_is)
READELF = Witness("readelf", _read_by_readelf, _readelf_can_say)
LLVM = Witness("llvm-dwarfdump", _read_by_llvm, _llvm_can_say)
PYELFTOOLS = Witness("pyelftools", _read_by_pyelftools, _as_it_is)
WITNESSES = (JITUNWIND, READELF, LLVM, PYELFTOOLS)
