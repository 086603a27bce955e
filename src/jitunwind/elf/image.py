"""The in-memory object: an ELF file that tells others about JIT code, without a copy of the code.

Each region has a `.text` of its own (SHT_NOBITS at its address), so that what lies between two regions
belongs to nobody; names stand in `.symtab`, lines in DWARF sections, unwind tables in `.eh_frame`.
"""

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from jitunwind.arch import Architecture
from jitunwind.arch.machine import Machine
from jitunwind.dwarf.encode import eh_frame
from jitunwind.dwarf.lines import Function, encode
from jitunwind.rows import WORD, UnwindTable


class _Type(IntEnum):
    """sh_type (gABI, figure 4-9)."""

    NULL = 0
    PROGBITS = 1
    SYMTAB = 2
    STRTAB = 3
    NOTE = 7
    NOBITS = 8


_ALLOC, _EXECINSTR = 0x2, 0x4
"""SHF_*: gABI, figure 4-11."""
_PT_LOAD, _READ_AND_EXECUTE = 1, 0x4 | 0x1
"""p_type and p_flags: gABI, figures 5-1 and 5-3."""
_ET_EXEC = 2
_GLOBAL_FUNCTION = 1 << 4 | 2
"""STB_GLOBAL, STT_FUNC."""
_HEADER_SIZE, _SEGMENT_SIZE, _SECTION_SIZE, _SYMBOL_SIZE = 64, 56, 64, 24
_FIRST_RESERVED_INDEX = 0xFF00
"""SHN_LORESERVE: section numbers from here on need the extended numbering, which is not used."""
MOST_FUNCTIONS = _FIRST_RESERVED_INDEX - 16


@dataclass
class _Section:
    name: str
    type: _Type
    data: bytes = b""
    address: int = 0
    size: int = 0
    flags: int = 0
    link: int = 0
    info: int = 0
    entry_size: int = 0
    alignment: int = 1


_SUFFIX = re.compile(rb"\.[A-Za-z\x80-\xff]+\Z")


def _bytes(text: str) -> bytes:
    """As it stands in a string table."""
    return text.encode("utf-8", "surrogateescape").replace(b"\0", b"?")


class _Strings:
    """A string table: gABI, chapter 4."""

    def __init__(self) -> None:
        self.data = bytearray(b"\0")
        self._offsets: dict[str, int] = {"": 0}

    def add(self, text: str) -> int:
        if text not in self._offsets:
            self._offsets[text] = len(self.data)
            self.data += _bytes(text) + b"\0"
        return self._offsets[text]


def symbol_name(name: str) -> str:
    """`name`, so that GDB does not take its end for a compiler's suffix: why, and by which rule, agent/image.c says
    (seems_to_have_suffix). A test holds the two to each other."""
    return name + " " if _SUFFIX.search(_bytes(name)) else name


def symbol_file(machine: Machine, functions: Sequence[Function]) -> bytes:
    """The bytes of an ELF object with the names and lines of `functions`, at most `MOST_FUNCTIONS`; ValueError for
    more."""
    texts = _texts([(function.start, function.size) for function in functions])
    names = _Strings()
    symbols = bytearray(_SYMBOL_SIZE)
    for index, function in enumerate(functions, start=1):
        symbols += struct.pack(
            "<IBBHQQ",
            names.add(symbol_name(function.name)),
            _GLOBAL_FUNCTION,
            0,
            index,
            function.start,
            function.size,
        )
    debug = encode(functions)
    symtab_index = 1 + len(texts)
    sections = [
        _Section("", _Type.NULL),
        *texts,
        _Section(
            ".symtab",
            _Type.SYMTAB,
            bytes(symbols),
            link=symtab_index + 1,
            info=1,
            entry_size=_SYMBOL_SIZE,
            alignment=WORD,
        ),
        _Section(".strtab", _Type.STRTAB, bytes(names.data)),
        _Section(".debug_abbrev", _Type.PROGBITS, debug.abbrev),
        _Section(".debug_info", _Type.PROGBITS, debug.info),
        _Section(".debug_line", _Type.PROGBITS, debug.line),
        _Section(".shstrtab", _Type.STRTAB),
    ]
    return _layout(machine, sections)


class Code(NamedTuple):
    """Machine code at an address, and the functions in it: (address, size, name)."""

    start: int
    data: bytes
    functions: tuple[tuple[int, int, str], ...]


def code_file(
    machine: Machine,
    codes: Sequence[Code],
    frames: Sequence[tuple[int, bytes]],
    note: tuple[str, bytes],
    other: tuple[str, bytes] | None = None,
) -> bytes:
    """The bytes of an ELF object that holds machine code: a `.text` for each of `codes`, an `.eh_frame` for each
    of `frames` (address, data), a note (its owner, what it says), and a section of another name (that, its bytes)."""
    if len(codes) + len(frames) > MOST_FUNCTIONS:
        raise ValueError(f"{len(codes)} pieces of code and {len(frames)} of frames; one object holds fewer")
    names, symbols = _Strings(), bytearray(_SYMBOL_SIZE)
    for index, code in enumerate(codes, start=1):
        for start, size, name in code.functions:
            symbols += struct.pack(
                "<IBBHQQ", names.add(symbol_name(name)), _GLOBAL_FUNCTION, 0, index, start, size
            )
    owner = note[0].encode() + b"\0"
    said = struct.pack("<III", len(owner), len(note[1]), 1)  # gABI, "Note Section"
    said += owner.ljust(len(owner) + 3 & ~3, b"\0") + note[1].ljust(len(note[1]) + 3 & ~3, b"\0")
    symtab_index = 1 + len(codes) + len(frames)
    sections = [
        _Section("", _Type.NULL),
        *(_Section(".text", _Type.PROGBITS, c.data, c.start, 0, _ALLOC | _EXECINSTR) for c in codes),
        *(_Section(".eh_frame", _Type.PROGBITS, data, address, 0, _ALLOC) for address, data in frames),
        _Section(
            ".symtab", _Type.SYMTAB, bytes(symbols), link=symtab_index + 1, info=1, entry_size=_SYMBOL_SIZE
        ),
        _Section(".strtab", _Type.STRTAB, bytes(names.data)),
        _Section(".note", _Type.NOTE, said),
        *([_Section(other[0], _Type.PROGBITS, other[1])] if other is not None else []),
        _Section(".shstrtab", _Type.STRTAB),
    ]
    return _layout(machine, sections)


def unwind_file(
    machine: Machine, arch: Architecture, tables: Sequence[tuple[int, UnwindTable]], address: int
) -> bytes:
    """The bytes of an ELF object with the unwind tables of regions, given as (address of the region, its table),
    at most `MOST_FUNCTIONS`; ValueError for more, and for what `eh_frame` refuses.

    `address`, a multiple of 8, is what the `.eh_frame` section has for its own: a place where the process has
    no code.
    """
    texts = _texts([(start, table.size) for start, table in tables])
    return _layout(machine, _with_frames(texts, eh_frame(arch, tables, address), address))


def frames_file(machine: Machine, codes: Sequence[tuple[int, int]], frames: bytes, address: int) -> bytes:
    """The bytes of an ELF object with the `.eh_frame` entries `frames`, which lie at `address`, of code given as
    (start, size), in at most `MOST_FUNCTIONS` pieces; ValueError for more.

    Each piece of code is a segment too: libdw takes from segments where a file lies.
    """
    return _layout(machine, _with_frames(_texts(codes), frames, address), codes)


def _with_frames(texts: Sequence[_Section], frames: bytes, address: int) -> list[_Section]:
    return [
        _Section("", _Type.NULL),
        *texts,
        _Section(".eh_frame", _Type.PROGBITS, frames, address, flags=_ALLOC, alignment=WORD),
        _Section(".shstrtab", _Type.STRTAB),
    ]


def _texts(ranges: Sequence[tuple[int, int]]) -> list[_Section]:
    if len(ranges) > MOST_FUNCTIONS:
        raise ValueError(f"{len(ranges)} regions; one object holds {MOST_FUNCTIONS}")
    flags = _ALLOC | _EXECINSTR
    return [_Section(".text", _Type.NOBITS, b"", start, size, flags) for start, size in ranges]


def _layout(machine: Machine, sections: list[_Section], segments: Sequence[tuple[int, int]] = ()) -> bytes:
    """`segments`, given as (start, size), have nothing in the file."""
    strings = _Strings()
    name_offsets = [strings.add(section.name) for section in sections]
    sections[-1].data = bytes(strings.data)
    body, headers = bytearray(), bytearray()
    for start, size in segments:
        body += struct.pack("<IIQQQQQQ", _PT_LOAD, _READ_AND_EXECUTE, 0, start, start, 0, size, 1)
    for section, name in zip(sections, name_offsets, strict=True):
        offset = _HEADER_SIZE + len(body) if section.type != _Type.NULL else 0
        headers += struct.pack(
            "<IIQQQQIIQQ",
            name,
            section.type,
            section.flags,
            section.address,
            offset,
            section.size or len(section.data),
            section.link,
            section.info,
            section.alignment,
            section.entry_size,
        )
        body += section.data
        body += bytes(-len(body) % 8)
    ident = b"\x7fELF" + bytes((2, 1, 1, 0)) + bytes(8)  # 64-bit, little-endian, version 1
    header = ident + struct.pack(
        "<HHIQQQIHHHHHH",
        _ET_EXEC,
        machine,
        1,
        0,
        _HEADER_SIZE if segments else 0,
        _HEADER_SIZE + len(body),
        0,
        _HEADER_SIZE,
        _SEGMENT_SIZE if segments else 0,
        len(segments),
        _SECTION_SIZE,
        len(sections),
        len(sections) - 1,
    )
    return header + bytes(body) + bytes(headers)
