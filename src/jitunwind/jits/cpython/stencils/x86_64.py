"""x86_64's stencils and shims: as in 3.14.10 and 3.15.2, which clang has compiled."""

import re
from functools import cache
from typing import NamedTuple

from jitunwind.arch import Convention
from jitunwind.arch.x86_64.registers import RBP, X86_64
from jitunwind.jits.cpython.layout import Layout
from jitunwind.jits.cpython.objects import CODE_UNIT
from jitunwind.jits.cpython.stencils.found import EntryShim, Shim, Store
from jitunwind.memory import Memory
from jitunwind.rows import WORD

CONVENTION = Convention("preserve_none", preserved=(RBP,))
"""Clang's: only rsp and rbp survive a call."""
SHIM = bytes.fromhex("415741564155415453")
"""push r15, r14, r13, r12, rbx: how the shim begins that stands before each executor's code on 3.14."""
_SHIM_ENDS = bytes.fromhex("5b415c415d415e415fc3")
"""pop rbx, r12, r13, r14, r15; ret: behind its call. No function calls what lies behind its own end so."""
LONGEST_SHIM = 64
ENTRY_SHIM = bytes.fromhex("554889e5415741564155415453")
"""push rbp; mov rsp,rbp; push r15, r14, r13, r12, rbx: how 3.15's one shim, _PyJIT_Entry, begins."""
_BODY_CFA = -6 * WORD
"""From rbp: _PyJIT_Entry sets it, pushes six registers and calls the body. Stencils never write rbp."""
_LONGEST_COMPUTATION = 24
"""Bytes between the immediate that an exit takes its bytecode offset from and the addition of the base."""


def begins_shim(code: bytes, offset: int) -> bool:
    return code.startswith(SHIM, offset)


def shim(code: bytes) -> Shim | None:
    """It calls the body right behind itself."""
    call = code.find(b"\xe8", len(SHIM), LONGEST_SHIM)
    if not code.startswith(SHIM) or call < 0:
        return None
    returns = call + 5
    target = returns + int.from_bytes(code[call + 1 : returns], "little", signed=True)
    ends = call < target <= LONGEST_SHIM and code[returns:target].endswith(_SHIM_ENDS)
    return Shim(target, returns) if ends else None


def entry_shim(code: bytes, jit_code: int) -> EntryShim | None:
    call = b"\x41\xff\x54\x24" + bytes([jit_code])  # call *jit_code(%r12)
    at = -1
    while (at := code.find(call, at + 1)) != -1:
        start = code.rfind(ENTRY_SHIM, max(at - LONGEST_SHIM, 0), at)
        end = code.find(b"\x5d\xc3", at, at + LONGEST_SHIM)  # pop %rbp; ret
        if start != -1 and end != -1:
            return EntryShim(start, end + 2, at + len(call))
    return None


def body_cfa(memory: Memory, frame_pointer: int, shim: int, returns: int) -> int | None:
    cfa = frame_pointer + _BODY_CFA
    return cfa if memory.word(cfa - WORD) == returns else None


def warmed(code: bytes, start: int, body: int, warm: int) -> int | None:
    found = _WARMS.search(code, body, body + _FIRST_BYTES)
    return int.from_bytes(found[1], "little") - warm if found else None


_WARMS = re.compile(rb"\x48\xb8(.{8})\xc6\x00\x01", re.DOTALL)
"""`movabs $&executor.warm,%rax; movb $1,(%rax)`: _MAKE_WARM, behind an assertion in debug builds."""
_FIRST_BYTES = 128


class _Stores(NamedTuple):
    """How stencils store the instruction pointer into the frame that one register holds."""

    move: re.Pattern[bytes]
    """`mov %r,instr_ptr(%frame)` behind a movabs, without its first byte: a search for a literal one is quick."""
    base: bytes
    """Of `add $co_code_adaptive,%r` the immediate."""


_MOVABS_FORM = rb"[\x48\x49][\xb8-\xbf]"
_MOVABS = re.compile(_MOVABS_FORM)
_MOVABS_SIZE = 10
_CONSTANT_AT = 2
_WITH_CONSTANT = re.compile(_MOVABS_FORM + rb".{8}", re.DOTALL)
"""REX.W, B8 + register, the constant (AMD64 manual, volume 3, MOV)."""
_FIRST_OF_MOVE = rb"[\x49\x4d]"
"""REX.W + REX.B, as the frame is in r12 or r13; + REX.R."""


@cache
def _stores(frame_register: int, instr_ptr: int, bytecode: int) -> _Stores:
    low = frame_register & 7
    forms = bytes(0x40 | source << 3 | low for source in range(8))  # mod 01: disp8
    index = b"\x24" if low == 4 else b""  # r12 as a base needs a SIB byte
    move = rb"\x89[" + re.escape(forms) + rb"]" + re.escape(index + bytes([instr_ptr]))
    behind = rb"(?<=" + _MOVABS_FORM + rb".{8}" + _FIRST_OF_MOVE + rb".{%d})" % (3 + len(index))
    return _Stores(re.compile(move + behind, re.DOTALL), bytecode.to_bytes(4, "little"))


def _stores_of(layout: Layout) -> _Stores:
    return _stores(
        layout.record.frame_registers[X86_64.name],
        layout.offsets["interpreter_frame.instr_ptr"],
        layout.offsets["code_object.co_code_adaptive"],
    )


def _address_before(code: bytes, move: int) -> int:
    """The constant of the movabs before a move, which begins at `move` but for its first byte."""
    return int.from_bytes(code[move - 9 : move - 1], "little")


def first_address(code: bytes, start: int, layout: Layout) -> int | None:
    move = _stores_of(layout).move.search(code)
    return None if move is None else _address_before(code, move.start())


def stores(code: bytes, start: int, layout: Layout) -> list[Store]:
    of = _stores_of(layout)
    found = []
    for move in of.move.finditer(code):  # movabs $address,%r; mov %r,instr_ptr(%frame)
        at, end = move.span()
        found.append(Store(end, _address_before(code, at)))
    base = -1
    while (base := code.find(of.base, base + 1)) >= 0:  # movabs $offset,%r … add $co_code_adaptive,%r
        movabs = _MOVABS.search(code, max(base - _LONGEST_COMPUTATION - _MOVABS_SIZE, 0), base)
        if movabs and movabs.end() + 8 <= base:
            within = int.from_bytes(code[movabs.end() : movabs.end() + 8], "little")
            found.append(Store(base + len(of.base), None, within * CODE_UNIT))
    return found


def names(code: bytes, start: int, begin: int, end: int, value: int, layout: Layout) -> bool:
    return code.find(value.to_bytes(WORD, "little"), begin, end) >= 0


def constants(code: bytes) -> list[tuple[int, int]]:
    starts = (match.start() for match in _WITH_CONSTANT.finditer(code))
    return [(start, start + _CONSTANT_AT) for start in starts]
