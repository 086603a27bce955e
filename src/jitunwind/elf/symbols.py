"""Symbol tables of ELF files: which symbol an address belongs to.

In come the headers of a file, out go names with an offset, chosen as GDB chooses among them (its `minsyms.c`,
`lookup_minimal_symbol_by_pc_section`): the last symbol that begins at or before the address, in the section that the
address is in. Of several at one address it is the last by name, one with a size before one without.
"""

from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property
from struct import Struct
from typing import NamedTuple

from jitunwind.elf.headers import (
    SHF_ALLOC,
    SHT_DYNSYM,
    SHT_SYMTAB,
    Headers,
    Section,
    string_at,
)
from jitunwind.errors import NotElf

_SYMBOL = Struct("<IBBHQQ")  # st_name, st_info, st_other, st_shndx, st_value, st_size (gABI, "Symbol Table")
_STT_SECTION, _STT_FILE, _STT_TLS = 3, 4, 6
_STB_LOCAL = 0
_SHN_UNDEF, _SHN_LORESERVE = 0, 0xFF00
_DT_HASH, _DT_STRTAB, _DT_SYMTAB, _DT_STRSZ, _DT_GNU_HASH = 4, 5, 6, 10, 0x6FFFFEF5
_MOST_SYMBOLS = 1 << 22
_MOST_SKIPPED = 1 << 12
"""Symbols before an address that are looked at for one that counts."""
_LARGEST_MINI_DEBUG_INFO = 1 << 28
_MAPPING_SYMBOLS = ("$x", "$d")
"""They mark code and data for disassemblers (AAELF64, section 5.7)."""


class Symbol(NamedTuple):
    """A symbol in code: its name, address in the file, and size (0: not known)."""

    name: str
    address: int
    size: int


class SymbolTable:
    """One table: `entries` of 24 bytes, whose names are in `strings`. `sections` are those of the file that it is in;
    without any, symbols count only as far as their own size reaches."""

    def __init__(self, entries: memoryview, strings: memoryview, sections: list[Section]) -> None:
        self._entries = entries[: min(len(entries) // _SYMBOL.size, _MOST_SYMBOLS) * _SYMBOL.size]
        self._strings = strings
        self._sections = sections

    def __len__(self) -> int:
        return len(self._entries) // _SYMBOL.size

    @cached_property
    def _order(self) -> tuple[list[int], list[int]]:
        """The values of all symbols, sorted, and where in the table each of them is."""
        values = self._entries.cast("Q")[1::3].tolist()
        order = sorted(range(len(values)), key=values.__getitem__)
        return [values[index] for index in order], order

    def at(self, address: int) -> Symbol | None:
        """The symbol that `address`, in the file's terms, belongs to."""
        section = self._section_of(address)
        if self._sections and section is None:
            return None
        values, _ = self._order
        sizeless: Symbol | None = None
        before = self._before(bisect_right(values, address), section)
        candidate = next(before, None)
        while candidate is not None:
            previous = next(before, None)
            if candidate.size == 0 and sizeless is None:
                sizeless = candidate
            elif (
                candidate.size
                and previous is not None
                and address >= candidate.address + candidate.size
                and address < previous.address + previous.size
            ):
                pass  # the previous one is larger, and reaches over this one
            else:
                break
            candidate = previous
        if candidate is None or candidate.size == 0:
            return sizeless
        return candidate if address < candidate.address + candidate.size else sizeless

    def _before(self, index: int, section: Section | None) -> Iterator[Symbol]:
        """The symbols of that section before `index`, from the last on; those at one address by falling name."""
        values, order = self._order
        lowest = max(0, index - _MOST_SKIPPED)
        while index > lowest:
            value, group = values[index - 1], []
            while index > lowest and values[index - 1] == value:
                index -= 1
                symbol = self._symbol(order[index], section)
                if symbol is not None:
                    group.append(symbol)
            group.sort(key=lambda each: each.name, reverse=True)
            yield from group

    def _symbol(self, index: int, section: Section | None) -> Symbol | None:
        """The symbol at `index`, if it counts for code of that section."""
        name_at, info, _, where, value, size = _SYMBOL.unpack_from(self._entries, index * _SYMBOL.size)
        if info & 0xF in (_STT_SECTION, _STT_FILE, _STT_TLS) or not _SHN_UNDEF < where < _SHN_LORESERVE:
            return None
        if section is not None:
            if where >= len(self._sections) or not _same(self._sections[where], section):
                return None
        elif not size:
            return None
        name = string_at(self._strings, name_at)
        if not name or name.startswith(_MAPPING_SYMBOLS) or _is_label(name, info >> 4 == _STB_LOCAL):
            return None
        return Symbol(name, value, size)

    def _section_of(self, address: int) -> Section | None:
        """The section in memory that has `address`."""
        for section in self._sections:
            if section.flags & SHF_ALLOC and section.holds(address):
                return section
        return None

    def named(self) -> Iterator[Symbol]:
        """All symbols that are defined here, in the table's order."""
        for name, info, _, where, value, size in _SYMBOL.iter_unpack(self._entries):
            if where != _SHN_UNDEF and value and info & 0xF not in (_STT_SECTION, _STT_FILE, _STT_TLS):
                yield Symbol(string_at(self._strings, name), value, size)


def _same(one: Section, other: Section) -> bool:
    return one.address == other.address and one.size == other.size


def _is_label(name: str, is_local: bool) -> bool:
    """Whether a compiler has made it: GDB's elfread.c leaves these out."""
    return name.startswith(".L") or (is_local and name.startswith("$L"))


def tables_of(headers: Headers) -> list[SymbolTable]:
    """A file's own tables, in the order in which GDB asks them: .symtab, or without one .dynsym, which is part of it;
    then that of MiniDebugInfo."""
    own = [
        section_table(headers, SHT_SYMTAB) or section_table(headers, SHT_DYNSYM) or dynamic_table(headers, 0)
    ]
    return [table for table in (*own, mini_debug_info(headers)) if table is not None]


def section_table(headers: Headers, kind: int) -> SymbolTable | None:
    """The table in a section of that kind; None, where there is none with symbols."""
    sections = headers.sections
    for section in sections:
        if section.kind == kind and section.link < len(sections):
            entries = headers.content(section)
            if len(entries) > _SYMBOL.size:
                return SymbolTable(entries, headers.content(sections[section.link]), sections)
    return None


def dynamic_table(headers: Headers, bias: int) -> SymbolTable | None:
    """The dynamic symbols, found as the loader finds them, without section headers. `bias`: what may have been added
    to the addresses in the dynamic section, in an image of a process's memory."""
    found = headers.dynamic()

    def content(tag: int, size: int) -> memoryview:
        address = found.get(tag, 0)
        return headers.at_address(address, size) or headers.at_address(address - bias, size)

    strings = content(_DT_STRTAB, found.get(_DT_STRSZ, 0))
    count = _count(content(_DT_HASH, 8), content(_DT_GNU_HASH, _MOST_SYMBOLS * 4))
    entries = content(_DT_SYMTAB, count * _SYMBOL.size)
    if len(entries) <= _SYMBOL.size or not strings:
        return None
    return SymbolTable(entries, strings, headers.sections)


def _count(hash_table: memoryview, gnu: memoryview) -> int:
    """How many dynamic symbols there are: a chain entry each in DT_HASH (gABI, "Hash Table"), else one more than the
    last that DT_GNU_HASH has: its buckets hold the first of a chain, whose last entry is odd."""
    if len(hash_table) >= 8:
        return min(int.from_bytes(hash_table[4:8], "little"), _MOST_SYMBOLS)
    if len(gnu) < 16:
        return 0
    words = gnu[: len(gnu) & ~3].cast("I")
    buckets, first, bloom = words[0], words[1], words[2]
    chains = 4 + bloom * 2 + buckets
    last = max(words[4 + bloom * 2 : chains], default=0)
    if last < first:
        return first
    for index in range(chains + last - first, min(len(words), chains + _MOST_SYMBOLS)):
        if words[index] & 1:
            return index - chains + first + 1
    return 0


def mini_debug_info(headers: Headers) -> SymbolTable | None:
    """The table in .gnu_debugdata, an ELF file of its own, compressed by xz (GDB's manual, "MiniDebugInfo")."""
    packed = headers.content(headers.section(".gnu_debugdata"))
    if not packed:
        return None
    import lzma  # few files have any

    try:
        data = lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(packed, _LARGEST_MINI_DEBUG_INFO)
        return section_table(Headers(data), SHT_SYMTAB)
    except (lzma.LZMAError, NotElf):
        return None
