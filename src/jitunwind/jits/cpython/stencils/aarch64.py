"""AArch64's stencils and shims: as in 3.14.10 and 3.15.2, which clang has compiled.

Encodings: Arm ARM (DDI 0487), C4.1. Addresses and other constants are loaded from words behind the code, and as
CPython's linker relaxes these loads (Python/jit.c, patch_aarch64_33rx): put together by movz and movk, by adrp
and add, or loaded from nearby.
"""

import re
import struct
from collections.abc import Iterator
from functools import lru_cache

from jitunwind.arch import Convention
from jitunwind.arch.aarch64.registers import AARCH64, X18, X29
from jitunwind.arch.aarch64.words import SIZE, immediate_added, loaded_near, near, page_of, signed, words_of
from jitunwind.jits.cpython.layout import Layout
from jitunwind.jits.cpython.objects import CODE_UNIT
from jitunwind.jits.cpython.stencils.found import EntryShim, Shim, Store
from jitunwind.memory import Memory
from jitunwind.rows import WORD

CONVENTION = Convention("preserve_none", preserved=(X29,))
"""Clang's: sp, x29, and the return address in x30."""
_SHIM = re.compile(rb"\xef[\x3b\xbb][\xa0-\xbf]\x6d", re.DOTALL)
"""stp d15, d14, [sp, #-n]!: how shims begin, those before each executor's code on 3.14 and 3.15's only one."""
_SHIM_ENDS = re.compile(rb"\xef[\x3b\xbb][\xc0-\xdf]\x6c\xc0\x03\x5f\xd6", re.DOTALL)
"""ldp d15, d14, [sp], #n; ret"""
LONGEST_SHIM = 192
_FRAME_RECORD = 0x40
_SETS_FRAME_POINTER = struct.pack("<I", 0x910003FD | _FRAME_RECORD << 10)
"""add x29, sp, #0x40: where the shim has put x29 and x30. The body's CFA is the sp of then; 3.15's bodies never
write x29."""
_RETURN, _CALL, _CALL_OF_REGISTER = 0xD65F03C0, 0x25, 0xD63F0000
_MASK = (1 << 64) - 1
_LONGEST_CONSTANT = 24
"""Instructions between the last that makes a constant and the one that uses it."""
_DEEPEST = 4
_WARMS = 24
"""Instructions of a body among which the flag is set."""


def begins_shim(code: bytes, offset: int) -> bool:
    return _SHIM.match(code, offset) is not None


def shim(code: bytes) -> Shim | None:
    """It calls the body right behind itself."""
    if not begins_shim(code, 0):
        return None
    words = words_of(code[:LONGEST_SHIM])
    for index, word in enumerate(words):
        if word >> 26 == _CALL:
            size = index * SIZE + signed(word & 0x3FFFFFF, 26) * SIZE
            end = words[size // SIZE - 1] if index * SIZE < size <= len(words) * SIZE else 0
            return Shim(size, (index + 1) * SIZE) if end == _RETURN else None
    return None


def entry_shim(code: bytes, jit_code: int) -> EntryShim | None:
    for begin in _SHIM.finditer(code):
        start = begin.start()
        end = _SHIM_ENDS.search(code, start, start + LONGEST_SHIM)
        if end is None or start % SIZE:
            continue
        words = words_of(code[start : end.start()])
        if _SETS_FRAME_POINTER not in code[start : end.start()]:
            continue
        for index, word in enumerate(words):
            if word & ~(31 << 5) != _CALL_OF_REGISTER:  # blr
                continue
            target = word >> 5 & 31
            # ldr target, [x0, #jit_code]
            if 0xF9400000 | jit_code // WORD << 10 | target in words[:index]:
                return EntryShim(start, end.end(), start + (index + 1) * SIZE)
    return None


def body_cfa(memory: Memory, frame_pointer: int, shim: int, returns: int) -> int | None:
    back = memory.word(frame_pointer + WORD)
    call = int.from_bytes(memory.checked_read(back - SIZE, SIZE), "little")
    direct = call >> 26 == _CALL and back - SIZE + signed(call & 0x3FFFFFF, 26) * SIZE == shim
    return frame_pointer - _FRAME_RECORD if direct else None


def warmed(code: bytes, start: int, body: int, warm: int) -> int | None:
    words = words_of(code[body : body + _WARMS * SIZE])
    for index, word in enumerate(words):
        if word >> 10 == 0x39000000 >> 10 | warm:  # strb w, [x, #warm]
            return _constants(code, start).before(body // SIZE + index, word >> 5 & 31)
    return None


def stores(code: bytes, start: int, layout: Layout) -> Iterator[Store]:
    constants = _constants(code, start)
    yield from _immediate(constants, range(len(constants.words)), layout)
    bytecode = layout.offsets["code_object.co_code_adaptive"]
    for index, word in enumerate(constants.words):
        # add xd, xn, wm, uxtw #1; add …, xd, #co_code_adaptive
        if word & 0xFFE0FC00 != 0x8B204400:
            continue
        adds_base = 0x91000000 | bytecode << 10 | (word & 31) << 5
        if any(each & ~31 == adds_base for each in constants.words[index + 1 : index + 3]):
            within = constants.before(index, word >> 16 & 31)
            if within is not None:
                yield Store((index + 1) * SIZE, None, (within & 0xFFFFFFFF) * CODE_UNIT)


def first_address(code: bytes, start: int, layout: Layout) -> int | None:
    constants = _constants(code, start)
    return next((store.address for store in _immediate(constants, range(len(constants.words)), layout)), None)


def names(code: bytes, start: int, begin: int, end: int, value: int, layout: Layout) -> bool:
    found = _immediate(_constants(code, start), range(begin // SIZE, end // SIZE), layout)
    return any(store.address == value for store in found)


def constants(code: bytes) -> None:
    return None


def _immediate(constants: "_Constants", indices: range, layout: Layout) -> Iterator[Store]:
    """The stores of constants among the instructions of those indices."""
    frame = layout.record.frame_registers[AARCH64.name]
    slot = layout.offsets["interpreter_frame.instr_ptr"] // WORD
    alone = (0xF9000000 | slot << 10 | frame << 5) >> 5  # str x, [frame, #instr_ptr]
    paired = (0xA9000000 | slot << 15 | frame << 5) & 0xFFFF83E0  # stp x, …, [frame, #instr_ptr]
    words = constants.words
    for index in indices:
        word = words[index]
        if word >> 5 == alone or word & 0xFFFF83E0 == paired:
            address = constants.before(index, word & 31)
            if address is not None:
                yield Store((index + 1) * SIZE, address)


class _Constants:
    """The constants that registers hold at some places of a region's machine code, which lies at `start`."""

    def __init__(self, code: bytes, start: int) -> None:
        self.words = words_of(code)
        self._code = code
        self._start = start

    def before(self, index: int, register: int, depth: int = 0) -> int | None:
        """What `register` holds before the instruction with that index; None, if that is not made nearby."""
        high, kept = 0, _MASK
        """What movk has put over the constant, and the bits that it has left."""
        for at in range(index - 1, max(index - 1 - _LONGEST_CONSTANT, -1), -1):
            word = self.words[at]
            if _goes_on(word, register):
                continue
            if word & 31 != register or depth > _DEEPEST:
                return None
            shift = (word >> 21 & 3) * 16
            immediate = (word >> 5 & 0xFFFF) << shift
            if word & 0x7F800000 == 0x72800000:  # movk
                high |= immediate & kept
                kept &= ~(0xFFFF << shift)
                continue
            value = self._made(at, word, immediate, depth)
            return None if value is None else high | value & kept
        return None

    def _made(self, at: int, word: int, immediate: int, depth: int) -> int | None:
        """The constant that the instruction makes, which writes one register."""
        here = self._start + at * SIZE
        if word & 0x7F800000 == 0x52800000:  # movz
            return immediate
        if word & 0xFF800000 == 0x92800000:  # movn
            return ~immediate & _MASK
        for address in (page_of(word, here), near(word, here)):
            if address is not None:
                return address
        address = loaded_near(word, here)
        if address is not None:
            return self._word(address) if word >> 24 == 0x58 else None  # ldr x
        added = immediate_added(word)
        if added is not None:
            source = self.before(at, added[0], depth + 1)
            return None if source is None else source + added[1] & _MASK
        if word & 0xFFC00000 == 0xF9400000:  # ldr x, [x, #n]
            source = self.before(at, word >> 5 & 31, depth + 1)
            return None if source is None else self._word(source + (word >> 10 & 0xFFF) * WORD)
        return None

    def _word(self, address: int) -> int | None:
        """The word of the region at that address."""
        offset = address - self._start
        if not 0 <= offset <= len(self._code) - WORD:
            return None
        return int.from_bytes(self._code[offset : offset + WORD], "little")


@lru_cache(maxsize=4)
def _constants(code: bytes, start: int) -> _Constants:
    return _Constants(code, start)


def _goes_on(word: int, register: int) -> bool:
    """Whether `register` is after the instruction what it was before, and control comes from before it."""
    if word >> 26 == 0x05 or word & 0xFE000000 == 0xD6000000:  # b; br, blr, ret
        return word & ~(31 << 5) == _CALL_OF_REGISTER and register > X18
    if word >> 26 == _CALL:  # bl
        return register > X18
    if word & 0x3A000000 == 0x28000000:  # stp, ldp
        loads = word >> 22 & 1 and register in (word & 31, word >> 10 & 31)
        return not loads
    if word & 0x3BC00000 in (0x38000000, 0x39000000) or word & 0x7C000000 in (0x34000000, 0x54000000):
        return True  # a store; cbz, cbnz, tbz, tbnz, b.cond
    return word & 31 != register
