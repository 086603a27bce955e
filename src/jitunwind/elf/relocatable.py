"""Relocatable objects (`.o`), laid out as a linker would: every section at an address of its own, relocated.

In comes an object, through pyelftools; out come its sections' addresses and bytes. `elf/inspect.py` reads the
result as it reads a linked file. What the object leaves to others gets an address beyond its sections.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from struct import Struct
from typing import NamedTuple

from elftools.elf.elffile import ELFFile

from jitunwind.arch.machine import Machine


class Dynamic(NamedTuple):
    """The kinds of relocations that the loader applies: the file's own address and an addend; the address of a
    symbol, into a slot of the global offset table."""

    relative: int
    slots: tuple[int, int]


DYNAMIC: dict[int, Dynamic] = {
    Machine.X86_64: Dynamic(8, (6, 7)),
    Machine.AARCH64: Dynamic(1027, (1025, 1026)),
}
"""R_X86_64_RELATIVE, GLOB_DAT, JUMP_SLOT: System V psABI x86_64, table 4.9; R_AARCH64_...: AAELF64, section
5.7.16."""


class Relocation(IntEnum):
    """Those of code, `.eh_frame` and jump tables: System V psABI x86_64, table 4.9."""

    ABS64 = 1
    PC32 = 2
    PLT32 = 4
    GOTPCREL = 9
    ABS32 = 10
    ABS32S = 11
    PC64 = 24
    GOTPCRELX = 41
    REX_GOTPCRELX = 42


_BY_SLOT = frozenset((Relocation.GOTPCREL, Relocation.GOTPCRELX, Relocation.REX_GOTPCRELX))
_PC_RELATIVE = frozenset((Relocation.PC32, Relocation.PLT32, Relocation.PC64, *_BY_SLOT))
_ABSOLUTE_KINDS = frozenset((Relocation.ABS64, Relocation.ABS32, Relocation.ABS32S))
_WIDE = frozenset((Relocation.ABS64, Relocation.PC64))
_RELA = Struct("<QQq")  # r_offset, r_info, r_addend (gABI, "Relocation")
_SYM = Struct("<IBBHQQ")  # st_name, st_info, st_other, st_shndx, st_value, st_size (gABI, "Symbol Table")
ALLOCATED = 2  # SHF_ALLOC
_UNDEFINED, _ABSOLUTE, _COMMON, _ELSEWHERE = 0, 0xFFF1, 0xFFF2, 0xFFFF  # gABI, SHN_*
_FIRST = 0x10000
_APART = 64
"""Bytes between sections: code that runs off the end of one does not get into the next."""
_SLOT = 8


@dataclass
class Layout:
    """`bases`: the address of each section by its index. `segments`: (address, bytes), rising. `externals`: the
    names of what the object does not define, by the addresses made up for them; `slots`: the names whose
    addresses stand in the global offset table, by slot."""

    bases: dict[int, int] = field(default_factory=dict)
    segments: list[tuple[int, bytearray]] = field(default_factory=list)
    externals: dict[int, str] = field(default_factory=dict)
    slots: dict[int, str] = field(default_factory=dict)
    end: int = _FIRST

    def place(self, size: int, alignment: int = 16) -> int:
        """A free address."""
        start = -(-self.end // alignment) * alignment
        self.end = start + size + _APART
        return start


def lay_out(elf: ELFFile) -> Layout:
    """Place the sections that a program sees in memory, and apply their relocations; kinds that are not among
    `Relocation`'s (those of thread-local variables) leave the bytes as they are.

    ValueError for an object with more sections than a symbol can name."""
    layout = Layout()
    by_index: dict[int, bytearray] = {}
    tables: list[tuple[int, bytes]] = []
    targets = _Targets(layout)
    for index, section in enumerate(elf.iter_sections()):
        if section["sh_flags"] & ALLOCATED:
            layout.bases[index] = layout.place(section["sh_size"], max(1, section["sh_addralign"]))
            if section["sh_type"] != "SHT_NOBITS":
                by_index[index] = bytearray(section.data())
                layout.segments.append((layout.bases[index], by_index[index]))
        elif section["sh_type"] == "SHT_SYMTAB":  # gABI: an object has one at most
            targets.table, targets.strings = section.data(), elf.get_section(section["sh_link"]).data()
        elif section["sh_type"] == "SHT_RELA":
            tables.append((section["sh_info"], section.data()))
    targets.read()
    apply = _apply_aarch64 if elf["e_machine"] == "EM_AARCH64" else _apply
    for index, table in tables:
        if index in by_index:
            apply(table, by_index[index], layout.bases[index], targets)
    layout.segments.append((targets.slots_start, targets.slots))
    return layout


class _Targets:
    """What relocations refer to: the symbols' addresses, and slots that hold them."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self.table = self.strings = b""
        self.addresses: list[int] = []
        self._names: list[str] = []
        self._slot_of: dict[int, int] = {}
        self.slots = bytearray()
        self.slots_start = 0

    def read(self) -> None:
        """Once every section has its place."""
        for name, _, _, where, value, _ in symbols(self.table):
            self._names.append(text_at(self.strings, name))
            self.addresses.append(self._address(self._names[-1], where, value))
        self.slots_start = self._layout.place(_SLOT * len(self.addresses))

    def _address(self, name: str, where: int, value: int) -> int:
        if where == _ELSEWHERE:
            raise ValueError("an object of more than 65,279 sections")
        if where == _ABSOLUTE:
            return value
        if where in (_UNDEFINED, _COMMON):
            address = self._layout.place(0)
            self._layout.externals[address] = name
            return address
        return self._layout.bases.get(where, 0) + value

    def slot(self, number: int) -> int:
        """The slot that holds the address of symbol `number`."""
        if number not in self._slot_of:
            slot = self._slot_of[number] = self.slots_start + len(self.slots)
            self.slots += self.addresses[number].to_bytes(_SLOT, "little")
            self._layout.slots[slot] = self._names[number]
        return self._slot_of[number]


def _apply(table: bytes, data: bytearray, base: int, targets: _Targets) -> None:
    for offset, info, addend in relocations(table):
        kind, number = info & 0xFFFFFFFF, info >> 32
        size = 8 if kind in _WIDE else 4
        known = kind in _PC_RELATIVE or kind in _ABSOLUTE_KINDS
        if not known or number >= len(targets.addresses) or offset + size > len(data):
            continue
        value = targets.slot(number) if kind in _BY_SLOT else targets.addresses[number]
        value += addend - (base + offset if kind in _PC_RELATIVE else 0)
        data[offset : offset + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")


_WORDS = {257: (8, False), 258: (4, False), 260: (8, True), 261: (4, True)}
"""R_AARCH64_ABS64, ABS32, PREL64, PREL32: bytes, and whether they are relative (AAELF64, section 5.7.4)."""
_BRANCHES = {279: (5, 14), 280: (5, 19), 282: (0, 26), 283: (0, 26)}
"""R_AARCH64_TSTBR14, CONDBR19, JUMP26, CALL26: where the distance in words begins, and its bits (section 5.7.9)."""
_PAGE, _IN_PAGE = 275, 277
"""R_AARCH64_ADR_PREL_PG_HI21, ADD_ABS_LO12_NC (sections 5.7.6 and 5.7.7)."""


def _apply_aarch64(table: bytes, data: bytearray, base: int, targets: _Targets) -> None:
    """Those of data, branches, and addresses made by `adrp` and `add`."""
    for offset, info, addend in relocations(table):
        kind, number = info & 0xFFFFFFFF, info >> 32
        size, is_relative = _WORDS.get(kind, (4, False))
        if number >= len(targets.addresses) or offset + size > len(data):
            continue
        value, place = targets.addresses[number] + addend, base + offset
        field = int.from_bytes(data[offset : offset + size], "little")
        if kind in _WORDS:
            field = value - (place if is_relative else 0)
        elif kind in _BRANCHES:
            at, bits = _BRANCHES[kind]
            mask = (1 << bits) - 1
            field = field & ~(mask << at) | (value - place >> 2 & mask) << at
        elif kind == _PAGE:
            pages = (value >> 12) - (place >> 12)
            field = field & 0x9F00001F | (pages & 3) << 29 | (pages >> 2 & 0x7FFFF) << 5
        elif kind == _IN_PAGE:
            field = field & ~(0xFFF << 10) | (value & 0xFFF) << 10
        data[offset : offset + size] = (field & (1 << 8 * size) - 1).to_bytes(size, "little")


def relocations(table: bytes) -> Iterator[tuple[int, int, int]]:
    """The entries of an SHT_RELA section: (place, info, addend)."""
    return _RELA.iter_unpack(table[: len(table) // _RELA.size * _RELA.size])


def symbols(table: bytes) -> Iterator[tuple[int, int, int, int, int, int]]:
    """The entries of a symbol table: (name's offset, info, other, section, value, size)."""
    return _SYM.iter_unpack(table[: len(table) // _SYM.size * _SYM.size])


def text_at(strings: bytes, at: int) -> str:
    """The name at `at` in a string table."""
    end = strings.find(b"\0", at)
    return strings[at : end if end >= 0 else len(strings)].decode("utf-8", "replace")
