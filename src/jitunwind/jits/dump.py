"""JIT code taken out of a process: its bytes, names, entries and published frames, as an object and as a file.

`take` makes one of a process's JITs, `save` and `load` put it into a file and get it back: an ELF object with a `.text`
at each piece's address, symbols, and the `.eh_frame`s, which objdump, readelf and GDB read as well. An audit that runs
nothing works on this, wherever the code comes from. A dump is a `Jit` itself.
"""

import json
import struct
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from jitunwind.arch import Architecture
from jitunwind.arch.known import ARCHITECTURES, of_machine
from jitunwind.dwarf.frames import EhFrame
from jitunwind.elf.image import Code as Piece
from jitunwind.elf.image import code_file
from jitunwind.elf.sections import (
    SHF_EXECINSTR,
    SHT_NOTE,
    Section,
    sections,
    string_at,
    symbols,
    type_and_machine,
)
from jitunwind.errors import BadDump, NotElf
from jitunwind.jits import Code, Jit
from jitunwind.memory import ADDRESS_LIMIT, Mapping
from jitunwind.region import Line, Region, RegionKind
from jitunwind.rows import SAME_VALUE, UNDEFINED, CfaRule, InRegister, RegisterRule, Row, SavedAt, Signed

OWNER = "jitunwind"
_ENTRIES = ".jitunwind"
"""The section that tells how code is entered: JSON {"rows": […], "codes": [[start, gate_size, [[offset, row]…]]…]}."""
_LARGEST = 1 << 30
_MOST_REGISTERS = 1 << 10


@dataclass
class Dump:
    """Code by rising start with the names of its functions; `gate` and its code, where one serves all; the `frames`
    that the process has published, and those of that gate. `name` is that of the JITs: `CPython 3.14.10`."""

    name: str
    architecture: Architecture
    codes: list[Code]
    names: list[str]
    frames: list[EhFrame] = field(default_factory=list)
    gate: Region | None = None
    gate_code: bytes = b""
    own_gate_name: str = ""
    """Of the gates that code has of its own."""

    @property
    def warnings(self) -> list[str]:
        return []

    @cached_property
    def starts(self) -> list[int]:
        return [code.start for code in self.codes]

    def _index(self, address: int) -> int | None:
        index = bisect_right(self.starts, address) - 1
        return index if index >= 0 and address < self.codes[index].end else None

    def find(self, pc: int) -> Code | None:
        index = self._index(pc)
        return None if index is None else self.codes[index]

    def may_hold(self, pc: int) -> Mapping | None:
        code = self.find(pc)
        return None if code is None else Mapping(code.start, code.end, True, "")

    def pieces(self, code: Code) -> list[Region]:
        index = self._index(code.start)
        assert index is not None
        start, gate = code.start, code.gate_size
        rest = Region(start + gate, code.size - gate, self.names[index])
        return [Region(start, gate, self.own_gate_name, RegionKind.SHIM), rest] if gate else [rest]

    def lines(self, code: Code) -> Sequence[Line]:
        return ()

    def gates(self) -> Sequence[Region]:
        return () if self.gate is None else (self.gate,)

    def is_current(self) -> bool:
        return True


def take(name: str, arch: Architecture, jit: Jit, frames: Sequence[EhFrame], gate_code: bytes) -> Dump:
    """All JIT code that is there now, of JITs called `name`; `gate_code` is that of their gate, if there is one. What
    cannot be read is left out, with a warning of `jit`."""
    codes = [code for code in map(jit.find, jit.starts) if code is not None]
    pieces = [jit.pieces(code) for code in codes]
    own_gate = next((each[0].name for each in pieces if len(each) > 1), "")
    gate = next(iter(jit.gates()), None)
    return Dump(
        name, arch, codes, [each[-1].name for each in pieces], list(frames), gate, gate_code, own_gate
    )


def save(dump: Dump) -> bytes:
    """The bytes of the file."""
    pieces = []
    for code in dump.codes:
        functions = tuple((piece.start, piece.size, piece.name) for piece in dump.pieces(code))
        pieces.append(Piece(code.start, code.data, functions))
    if dump.gate is not None:
        gate = dump.gate
        pieces.append(Piece(gate.start, dump.gate_code, ((gate.start, gate.size, gate.name),)))
    entries = json.dumps(_entries_of(dump.codes), separators=(",", ":")).encode()
    note = (OWNER, dump.name.encode())
    return code_file(dump.architecture.elf_machine, pieces, dump.frames, note, (_ENTRIES, entries))


def _entries_of(codes: Iterable[Code]) -> dict[str, Any]:
    rows: dict[Row, int] = {}
    listed = []
    for code in codes:
        entries = [[offset, rows.setdefault(row, len(rows))] for offset, row in code.entries]
        listed.append([code.start, code.gate_size, entries])
    return {"rows": [_as_json(row) for row in rows], "codes": listed}


def _as_json(row: Row) -> list[Any]:
    """[CFA's register, its offset, [[register, rule]…], [register, key] of the signature or null]; a rule is "same",
    "undefined", an offset from the CFA, or [register]."""
    rules = [[register, _rule_as_json(rule)] for register, rule in row.rules]
    return [*row.cfa, rules, list(row.signed) if row.signed is not None else None]


def _rule_as_json(rule: RegisterRule) -> Any:
    if isinstance(rule, SavedAt):
        return rule.offset
    if isinstance(rule, InRegister):
        return [rule.register]
    return "same" if rule == SAME_VALUE else "undefined"


def load(path: Path) -> Dump:
    """The dump in the file at `path`. BadDump."""
    try:
        if path.stat().st_size > _LARGEST:
            raise BadDump(f"{path} is too large for a dump")
        data = path.read_bytes()
    except OSError as error:
        raise BadDump(f"{path} cannot be read: {error.strerror}") from None
    try:
        return _loaded(data)
    except struct.error:
        raise BadDump(f"{path} is cut short, or damaged") from None
    except NotElf as error:
        raise BadDump(f"{path} {error}") from None
    except BadDump as error:
        raise BadDump(f"{path} {error}", error.hint) from None


def _loaded(data: bytes) -> Dump:
    """BadDump and NotElf, whose messages begin behind the file's name; struct.error where something is cut short."""
    if data[:6] != b"\x7fELF\x02\x01":
        raise BadDump("is no dump of JIT code")
    found = sections(data)
    name = next((said for each in found if each.type == SHT_NOTE if (said := _maker(each.data))), None)
    if name is None:
        raise BadDump("is an ELF file, but no dump of JIT code")
    arch = of_machine(type_and_machine(data)[1])
    if arch is None:
        raise BadDump(
            f"is of machine {type_and_machine(data)[1]}", f"known are {' and '.join(ARCHITECTURES)}"
        )
    entries = _entries_in(next((each.data for each in found if each.name == _ENTRIES), b""))
    dump = Dump(name, arch, [], [])
    listed: list[tuple[Code, str]] = []
    functions = _functions(found)
    for index, section in enumerate(found):
        if section.name == ".eh_frame":
            dump.frames.append(EhFrame(section.address, section.data))
        elif section.flags & SHF_EXECINSTR:
            _add(dump, listed, section, sorted(functions.get(index, ())), entries.get(section.address))
    listed.sort(key=lambda each: each[0].start)
    if any(one.end > other.start for (one, _), (other, _) in pairwise(listed)):
        raise BadDump("is damaged: its regions overlap")
    dump.codes, dump.names = [code for code, _ in listed], [name for _, name in listed]
    return dump


_Entered = tuple[int, tuple[tuple[int, Row], ...]]
"""The size of a code's own gate, and its entries."""


def _add(
    dump: Dump,
    listed: list[tuple[Code, str]],
    section: Section,
    functions: list[tuple[int, int, str]],
    entered: _Entered | None,
) -> None:
    """What one section of code is: JIT code, or the gate of all, of which nothing tells how it is entered."""
    start, data = section.address, section.data
    if not functions or not data or start + len(data) > ADDRESS_LIMIT:
        raise BadDump(f"is damaged: the code at {start:#x} has no name, or is none")
    if entered is None:
        dump.gate = Region(start, len(data), functions[0][2], RegionKind.SHIM)
        dump.gate_code = data
        return
    gate, entries = entered
    if (
        len(functions) < 1 + bool(gate)
        or not all(0 <= at < len(data) for at, _ in entries)
        or gate >= len(data)
    ):
        raise BadDump(f"is damaged: the code at {start:#x} is entered outside of itself")
    if gate:
        dump.own_gate_name = functions[0][2]
    listed.append((Code(start, data, entries, gate), functions[bool(gate)][2]))


def _functions(found: Sequence[Section]) -> dict[int, list[tuple[int, int, str]]]:
    """(start, size, name) of those in each section, by its index."""
    names = next((each.data for each in found if each.name == ".strtab"), b"")
    functions: dict[int, list[tuple[int, int, str]]] = {}
    for name, _, index, start, size in symbols(found):
        functions.setdefault(index, []).append((start, size, string_at(names, name).removesuffix(" ")))
    return functions


def _entries_in(data: bytes) -> dict[int, _Entered]:
    """By the start of each code. BadDump for what `save` does not write."""
    try:
        said = json.loads(data)
        rows = [_row(row) for row in said["rows"]]
        return {
            _number(start): (_number(gate), tuple((_number(at), rows[_number(row)]) for at, row in entries))
            for start, gate, entries in said["codes"]
            if entries
        }
    except (ValueError, TypeError, KeyError, IndexError, RecursionError):
        raise BadDump("is damaged: it does not tell how its code is entered") from None


def _row(said: Any) -> Row:
    register, offset, rules, signed = said
    cfa = CfaRule(_register(register), _number(offset, lowest=-ADDRESS_LIMIT))
    key = None if signed is None else Signed(_register(signed[0]), "B" if signed[1] == "B" else "A")
    return Row(cfa, tuple((_register(each), _rule(rule)) for each, rule in rules), key)


def _rule(said: Any) -> RegisterRule:
    if said in ("same", "undefined"):
        return SAME_VALUE if said == "same" else UNDEFINED
    if isinstance(said, list):
        return InRegister(_register(said[0]))
    return SavedAt(_number(said, lowest=-ADDRESS_LIMIT))


def _register(said: Any) -> int:
    number = _number(said)
    if number >= _MOST_REGISTERS:
        raise ValueError(said)
    return number


def _number(said: Any, lowest: int = 0) -> int:
    if type(said) is not int or not lowest <= said < ADDRESS_LIMIT:
        raise ValueError(said)
    return said


def _maker(note: bytes) -> str | None:
    """What the note says that makes an ELF file a dump; None for another's."""
    owner, size, _ = struct.unpack_from("<III", note)
    start = 12 + (owner + 3 & ~3)
    if note[12 : 12 + owner] != OWNER.encode() + b"\0" or start + size > len(note):
        return None
    return note[start : start + size].decode("utf-8", "replace")
