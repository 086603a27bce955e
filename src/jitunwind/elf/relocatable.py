"""Relocatable objects (`.o`), laid out as a linker would: every section at an address of its own, relocated.

In comes an object, through pyelftools; out come its sections' addresses and bytes. `elf/inspect.py` reads the
result as it reads a linked file. What the object leaves to others gets an address beyond its sections.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from struct import Struct

from elftools.elf.elffile import ELFFile

from jitunwind.arch.relocations import Relocations, Target

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


def lay_out(elf: ELFFile, kinds: Relocations | None) -> Layout:
    """Place the sections that a program sees in memory, and apply their relocations; those that `kinds` does not know
    leave the bytes as they are; None knows none.

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
    for index, table in tables:
        if kinds is not None and index in by_index:
            _apply(kinds, table, by_index[index], layout.bases[index], targets)
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


def _apply(kinds: Relocations, table: bytes, data: bytearray, base: int, targets: _Targets) -> None:
    for offset, info, addend in relocations(table):
        kind, number = info & 0xFFFFFFFF, info >> 32
        size = kinds.size(kind)
        if not size or number >= len(targets.addresses) or offset + size > len(data):
            continue
        field = int.from_bytes(data[offset : offset + size], "little")
        target = Target(targets.addresses[number], partial(targets.slot, number), addend)
        field = kinds.relocated(kind, field, base + offset, target)
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
