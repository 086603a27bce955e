"""The sections of an ELF object in memory: names, addresses and bytes, and the symbols that name functions.

Own code, without pyelftools, which a GDB's Python does not have; a damaged object must not ask for the machine's
memory, either. gABI, "Sections" and "Symbol Table".
"""

import os
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from jitunwind.errors import NotElf

SHT_NOTE, SHT_RELA = 7, 4
SHF_ALLOC, SHF_EXECINSTR = 2, 4
ET_REL, ET_DYN = 1, 3
_SHT_NULL, _SHT_NOBITS = 0, 8
_E_TYPE, _E_MACHINE, _E_SHOFF, _E_SHENTSIZE = 16, 18, 40, 58
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELA = struct.Struct("<QQq")
_STT_FUNC = 2
_ABSOLUTE = {62: {1: 8, 10: 4}, 183: {257: 8, 258: 4}}
"""By machine (x86_64, AArch64): the relocations that are the address of a symbol plus an addend, and their bytes.
System V psABI x86_64, table 4.9; AAELF64, section 5.7.4."""


class Section(NamedTuple):
    """`place`: where its bytes lie in the object."""

    name: str
    type: int
    flags: int
    address: int
    data: bytes
    link: int
    info: int
    place: int


class Function(NamedTuple):
    """A function at `start`; `section` is the index of its section."""

    start: int
    size: int
    name: str
    section: int


def type_and_machine(data: bytes) -> tuple[int, int]:
    """`e_type` and `e_machine` of a 64-bit little-endian ELF object. NotElf."""
    if data[:6] != b"\x7fELF\x02\x01" or len(data) < 64:
        raise NotElf("is no 64-bit little-endian ELF object")
    return struct.unpack_from("<HH", data, _E_TYPE)


def sections(data: bytes) -> list[Section]:
    """All of an object's. NotElf, whose message goes on where the object's name ends."""
    type_and_machine(data)
    (table,) = struct.unpack_from("<Q", data, _E_SHOFF)
    size, count, names_index = struct.unpack_from("<HHH", data, _E_SHENTSIZE)
    if table + size * count > len(data):
        raise NotElf("is cut short")
    if size != _SECTION.size or names_index >= count:
        raise NotElf("is damaged: its section headers make no sense")
    headers = [_SECTION.unpack_from(data, table + index * size) for index in range(count)]
    contents = []
    for _, kind, _, _, offset, length, *_ in headers:
        if kind in (_SHT_NULL, _SHT_NOBITS):
            offset = length = 0
        if offset + length > len(data):
            raise NotElf("is cut short")
        contents.append(data[offset : offset + length])
    names = contents[names_index]
    return [
        Section(string_at(names, name), kind, flags, address, content, link, info, offset)
        for (name, kind, flags, address, offset, _, link, info, *_), content in zip(
            headers, contents, strict=True
        )
    ]


def string_at(table: bytes, at: int) -> str:
    return table[at : table.find(b"\0", at)].decode("utf-8", "replace")


def symbols(found: Sequence[Section]) -> Iterator[tuple[int, int, int, int, int]]:
    """(name's offset in `.strtab`, info, section's index, value, size) of each entry of `.symtab`."""
    table = next((each.data for each in found if each.name == ".symtab"), b"")
    for name, info, _, index, value, size in _SYMBOL.iter_unpack(
        table[: len(table) // _SYMBOL.size * _SYMBOL.size]
    ):
        yield name, info, index, value, size


def functions(data: bytes, found: Sequence[Section]) -> list[Function]:
    """Those of `.symtab` that lie in code, by rising address, one at each. In a relocatable object their values count
    from their sections (gABI, "Symbol Values")."""
    is_relative = type_and_machine(data)[0] == ET_REL
    names = strings_of_symbols(found)
    by_start: dict[int, Function] = {}
    for name, info, index, value, size in symbols(found):
        if info & 0xF != _STT_FUNC or not size or index >= len(found):
            continue
        section = found[index]
        if not section.flags & SHF_EXECINSTR or (is_relative and not section.address):
            continue
        start = value + (section.address if is_relative else 0)
        own = string_at(names, name).removesuffix(" ")  # `elf.image.symbol_name` appends it
        by_start.setdefault(start, Function(start, size, own, index))
    return [by_start[start] for start in sorted(by_start)]


def strings_of_symbols(found: Sequence[Section]) -> bytes:
    """The string table that `.symtab` links to."""
    table = next((each for each in found if each.name == ".symtab"), None)
    return found[table.link].data if table is not None and table.link < len(found) else b""


def relocated(data: bytes, found: Sequence[Section], prefix: str) -> bytes:
    """A relocatable object with the absolute relocations of the sections that are called so applied, as of the
    addresses that the sections' headers have: who has loaded the code has put them there."""
    kinds = _ABSOLUTE.get(type_and_machine(data)[1], {})
    table = list(symbols(found))
    made = bytearray(data)
    for relocations in found:
        if relocations.type != SHT_RELA or relocations.info >= len(found):
            continue
        section = found[relocations.info]
        if not section.name.startswith(prefix):
            continue
        whole = relocations.data[: len(relocations.data) // _RELA.size * _RELA.size]
        for offset, info, addend in _RELA.iter_unpack(whole):
            size, number = kinds.get(info & 0xFFFFFFFF, 0), info >> 32
            if not size or number >= len(table) or offset + size > len(section.data):
                continue
            _, _, index, value, _ = table[number]
            base = found[index].address if index < len(found) else 0
            place = section.place + offset
            made[place : place + size] = (base + value + addend & (1 << 8 * size) - 1).to_bytes(
                size, "little"
            )
    return bytes(made)


def offsets_of(path: str, name: str) -> list[int]:
    """Where a file's symbols of that name are, local ones, too: bytes from where the file is mapped, or addresses for a
    file that is not moved (ET_EXEC). Empty for what cannot be read: of large files, no more than the tables is."""
    try:
        with open(path, "rb", buffering=0) as file:
            return _offsets_in(file.fileno(), name.encode())
    except (OSError, struct.error):
        return []


_MOST_OF_TABLE = 1 << 28
_SHT_SYMTAB, _SHT_DYNSYM = 2, 11
_HEADER_SIZE = 64


def _offsets_in(file: int, name: bytes) -> list[int]:
    header = os.pread(file, _HEADER_SIZE, 0)
    if header[:6] != b"\x7fELF\x02\x01":
        return []
    (table,) = struct.unpack_from("<Q", header, _E_SHOFF)
    size, count, _ = struct.unpack_from("<HHH", header, _E_SHENTSIZE)
    if size != _SECTION.size:
        return []
    headers = list(_SECTION.iter_unpack(os.pread(file, size * count, table)))
    found: set[int] = set()
    for _, kind, _, _, offset, length, link, *_ in headers:
        if kind not in (_SHT_SYMTAB, _SHT_DYNSYM) or link >= len(headers):
            continue
        strings_at, strings_size = headers[link][4:6]
        if max(length, strings_size) > _MOST_OF_TABLE:
            continue
        at = os.pread(file, strings_size, strings_at).find(b"\0" + name + b"\0") + 1
        if at:
            data = os.pread(file, length, offset)
            whole = _SYMBOL.iter_unpack(data[: len(data) // _SYMBOL.size * _SYMBOL.size])
            found.update(value for string, _, _, _, value, _ in whole if string == at and value)
    return sorted(found)


def is_moved(path: str) -> bool:
    """Whether the loader moves the file: it is ET_DYN."""
    try:
        with open(path, "rb", buffering=0) as file:
            return int.from_bytes(file.read(_E_TYPE + 2)[_E_TYPE:], "little") == ET_DYN
    except OSError:
        return False
