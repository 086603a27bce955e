"""Names and lines to DWARF 5 bytes: `.debug_info`, `.debug_abbrev` and `.debug_line` for JIT code.

Each function is a compilation unit of its own with one line program, so that a debugger reads only those it
meets. No ELF, no process.
"""

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from jitunwind.dwarf.leb128 import signed, unsigned
from jitunwind.region import Line


class Function(NamedTuple):
    """A range of machine code with a name, and its lines by rising offset."""

    name: str
    start: int
    size: int
    lines: Sequence[Line]


class DebugSections(NamedTuple):
    """The bytes of the three sections."""

    abbrev: bytes
    info: bytes
    line: bytes


class _Tag(IntEnum):
    """DWARF 5, table 7.3."""

    COMPILE_UNIT = 0x11
    SUBPROGRAM = 0x2E


class _At(IntEnum):
    """DWARF 5, table 7.5."""

    NAME = 0x03
    STMT_LIST = 0x10
    LOW_PC = 0x11
    HIGH_PC = 0x12
    LANGUAGE = 0x13
    EXTERNAL = 0x3F


class _Form(IntEnum):
    """DWARF 5, table 7.6."""

    ADDR = 0x01
    DATA2 = 0x05
    STRING = 0x08
    UDATA = 0x0F
    SEC_OFFSET = 0x17
    FLAG_PRESENT = 0x19


class _Lns(IntEnum):
    """Standard and extended line number opcodes, DWARF 5, tables 7.25 and 7.26."""

    COPY = 1
    ADVANCE_PC = 2
    ADVANCE_LINE = 3
    SET_FILE = 4
    EXTENDED = 0
    END_SEQUENCE = 1
    SET_ADDRESS = 2


_LANGUAGE_C11 = 0x1D
"""DW_LANG_C11 (DWARF 5, table 7.17): a debugger then evaluates expressions at a JIT frame as in C."""
_PATH = 1
"""DW_LNCT_path (DWARF 5, table 7.27)."""
_DIRECTORY_INDEX = 2
"""DW_LNCT_directory_index."""
_UNIT_COMPILE = 1
"""DW_UT_compile (DWARF 5, table 7.2)."""
_STANDARD_LENGTHS = bytes((0, 1, 1, 1))
"""How many operands each standard opcode takes, of those that are used (DWARF 5, section 6.2.5.2)."""
_FIRST_SPECIAL = len(_STANDARD_LENGTHS) + 1
_LEAST_LINES, _LINES_RANGE = -100, 200
"""Special opcodes here go this many lines on, and no address (DWARF 5, section 6.2.5.1)."""

_COMPILE_UNIT = (
    (_At.LANGUAGE, _Form.DATA2),
    (_At.NAME, _Form.STRING),
    (_At.LOW_PC, _Form.ADDR),
    (_At.HIGH_PC, _Form.UDATA),
    (_At.STMT_LIST, _Form.SEC_OFFSET),
)
_SUBPROGRAM = (
    (_At.EXTERNAL, _Form.FLAG_PRESENT),
    (_At.NAME, _Form.STRING),
    (_At.LOW_PC, _Form.ADDR),
    (_At.HIGH_PC, _Form.UDATA),
)


def _abbreviation(code: int, tag: _Tag, children: bool, attributes: Sequence[tuple[_At, _Form]]) -> bytes:
    pairs = b"".join(unsigned(at) + unsigned(form) for at, form in attributes)
    return unsigned(code) + unsigned(tag) + bytes([children]) + pairs + b"\0\0"


_ABBREVIATIONS = (
    _abbreviation(1, _Tag.COMPILE_UNIT, True, _COMPILE_UNIT)
    + _abbreviation(2, _Tag.SUBPROGRAM, False, _SUBPROGRAM)
    + b"\0"
)
"""The `.debug_abbrev` of all units made here."""


def _string(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape").replace(b"\0", b"?") + b"\0"


def encode(functions: Sequence[Function]) -> DebugSections:
    """The debugging sections of `functions`, for 64-bit little-endian targets."""
    info, line = bytearray(), bytearray()
    for function in functions:
        info += _unit(function, len(line))
        line += _line_program(function)
    return DebugSections(_ABBREVIATIONS, bytes(info), bytes(line))


def _unit(function: Function, line_offset: int) -> bytes:
    extent = struct.pack("<Q", function.start) + unsigned(function.size)
    filename = function.lines[0].filename if function.lines else function.name
    before = b"\x01" + struct.pack("<H", _LANGUAGE_C11) + _string(filename) + extent
    after = b"\x02" + _string(function.name) + extent + b"\0"
    dies = before + struct.pack("<I", line_offset) + after
    header = struct.pack("<HBBI", 5, _UNIT_COMPILE, 8, 0)  # version, unit type, address size, abbreviations
    return struct.pack("<I", len(header) + len(dies)) + header + dies


def _line_program(function: Function) -> bytes:
    files = list(dict.fromkeys(line.filename for line in function.lines)) or [function.name]
    # Directory and file formats are (content, form) pairs; file 0 is the unit's own (section 6.2.4).
    directories = b"\x01" + bytes((_PATH, _Form.STRING)) + unsigned(1) + _string("")
    file_format = b"\x02" + bytes((_PATH, _Form.STRING, _DIRECTORY_INDEX, _Form.UDATA))
    names = b"".join(_string(name) + unsigned(0) for name in files)
    tables = directories + file_format + unsigned(len(files)) + names
    # minimum instruction length 1, operations 1, is_stmt 1, line_base, line_range, opcode_base
    after_length = struct.pack("<BBBbBB", 1, 1, 1, _LEAST_LINES, _LINES_RANGE, _FIRST_SPECIAL)
    after_length += _STANDARD_LENGTHS + tables
    header = struct.pack("<HBBI", 5, 8, 0, len(after_length)) + after_length
    program = header + _opcodes(function, files)
    return struct.pack("<I", len(program)) + program


def _opcodes(function: Function, files: Sequence[str]) -> bytes:
    out = bytearray(bytes((_Lns.EXTENDED, 9, _Lns.SET_ADDRESS)) + struct.pack("<Q", function.start))
    number = {name: index for index, name in enumerate(files)}
    offset, current_line = 0, 1
    current_file: int | None = None
    for line in function.lines:
        if line.offset != offset:
            out += bytes([_Lns.ADVANCE_PC]) + unsigned(line.offset - offset)
            offset = line.offset
        if number[line.filename] != current_file:
            current_file = number[line.filename]
            out += bytes([_Lns.SET_FILE]) + unsigned(current_file)
        lines = line.line - current_line - _LEAST_LINES
        if 0 <= lines < _LINES_RANGE:
            out.append(_FIRST_SPECIAL + lines)
        else:
            out += bytes([_Lns.ADVANCE_LINE]) + signed(line.line - current_line) + bytes([_Lns.COPY])
        current_line = line.line
    if not function.lines:
        out += bytes([_Lns.SET_FILE, 0])  # the sequence begins in file 1, which there is not
    out += bytes([_Lns.ADVANCE_PC]) + unsigned(function.size - offset)
    out += bytes((_Lns.EXTENDED, 1, _Lns.END_SEQUENCE))
    return bytes(out)
