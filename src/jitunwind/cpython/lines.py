"""Which line of Python each instruction of an executor's machine code runs.

The micro-op `_SET_IP` stores the address of the bytecode instruction into the interpreter's frame: two
machine instructions with the address as an immediate. Exits compute it from the bytecode's offset instead.
Both are found in the bytes; each holds from its store to the next one.
"""

import re
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from jitunwind.cpython.layout import Layout
from jitunwind.cpython.objects import CODE_UNIT, CodeObject, Objects

_LONGEST_COMPUTATION = 24
"""Bytes between the immediate that an exit takes its bytecode offset from and the addition of the base."""


class LineRow(NamedTuple):
    """From `offset` in the region on, the code runs `line` of `filename`."""

    offset: int
    filename: str
    line: int


@dataclass(frozen=True)
class _Stores:
    """How x86_64 stencils store the instruction pointer into the frame that one register holds."""

    immediate: re.Pattern[bytes]
    """movabs $address,%r; mov %r,instr_ptr(%frame)"""
    computed: re.Pattern[bytes]
    """movabs $offset,%r … add $co_code_adaptive,%r"""


@cache
def _stores(frame_register: int, instr_ptr: int, bytecode: int) -> _Stores:
    low = frame_register & 7
    move_to_frame = rb"[\x49\x4d]\x89"  # REX.W + REX.B (the frame is in r12 or r13) 89 /r
    forms = bytes(0x40 | source << 3 | low for source in range(8))  # mod 01: disp8
    index = b"\x24" if low == 4 else b""  # r12 as a base needs a SIB byte
    store = move_to_frame + b"[" + re.escape(forms) + b"]" + re.escape(index + bytes([instr_ptr]))
    movabs = rb"[\x48\x49][\xb8-\xbf](.{8})"
    base = re.escape(bytecode.to_bytes(4, "little"))
    return _Stores(
        re.compile(movabs + store, re.DOTALL),
        re.compile(movabs + b".{0,%d}?" % _LONGEST_COMPUTATION + base, re.DOTALL),
    )


def line_rows(code: bytes, objects: Objects, layout: Layout, owner: CodeObject | None) -> list[LineRow]:
    """The lines of one region's machine code, by rising offset, the first at 0; empty where none is known.

    `owner`: the code object that the executor was made for.
    """
    offsets = layout.offsets
    stores = _stores(
        layout.executor.frame_register,
        offsets["interpreter_frame.instr_ptr"],
        offsets["code_object.co_code_adaptive"],
    )
    found: list[tuple[int, int | None, int]] = []  # (from, absolute address or None, offset in bytecode)
    for match in stores.immediate.finditer(code):
        found.append((match.end(), int.from_bytes(match[1], "little"), 0))
    for match in stores.computed.finditer(code):
        found.append((match.end(), None, int.from_bytes(match[1], "little") * CODE_UNIT))
    rows: list[LineRow] = []
    current = owner
    for offset, address, within in sorted(found):
        if address is not None:
            current = objects.code_of_instruction(address) or current
        elif owner is not None and within < owner.bytecode_size:
            current = owner
        if current is None:
            continue
        line = current.line_at(address if address is not None else current.bytecode + within)
        if line is not None and (not rows or rows[-1][1:] != (current.filename, line)):
            rows.append(LineRow(offset, current.filename, line))
    if rows:
        rows[0] = rows[0]._replace(offset=0)
    return rows


def first_code(code: bytes, objects: Objects, layout: Layout) -> CodeObject | None:
    """The code object whose bytecode the machine code mentions first."""
    offsets = layout.offsets
    stores = _stores(
        layout.executor.frame_register,
        offsets["interpreter_frame.instr_ptr"],
        offsets["code_object.co_code_adaptive"],
    )
    match = stores.immediate.search(code)
    return objects.code_of_instruction(int.from_bytes(match[1], "little")) if match else None
