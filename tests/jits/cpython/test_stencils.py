"""AArch64's stencils and shims in machine code as Debian's interpreters have it; x86_64's are in test_lines.py, and
both in the live tests."""

import struct
from collections.abc import Sequence

import pytest

from jitunwind.jits.cpython.layout import Layout
from jitunwind.jits.cpython.stencils import EntryShim, Shim, Store, aarch64
from jitunwind.jits.cpython.versions import py314, py315
from tests.support.fake_memory import FakeMemory, words

START = 0x5500ED4000
ADDRESS = 0x5500C13880
OFFSETS = {"interpreter_frame.instr_ptr": 0x38, "code_object.co_code_adaptive": 0xD0}
OF_3_14 = Layout(0, (3, 14, 0), OFFSETS, py314.VERSION)
OF_3_15 = Layout(0, (3, 15, 0), OFFSETS, py315.VERSION)
NOP, RET = 0xD503201F, 0xD65F03C0
PUSHES = [0x6DB63BEF, 0xA90857F6, 0xAA0103F5, 0xAA0203F6, 0xA9094FF4, 0xAA0003F4, 0x6D0133ED, 0x6D022BEB]
PUSHES += [0x6D0323E9, 0xA9047BFD, 0x910103FD, 0xA9056FFC, 0xA90667FA, 0xA9075FF8]
POPS = [0xA9494FF4, 0xA94857F6, 0xA9475FF8, 0xA94667FA, 0xA9456FFC, 0xA9447BFD, 0x6D4323E9, 0x6D422BEB]
POPS += [0x6D4133ED, 0x6CCA3BEF, RET]
SHIM = [*PUSHES, 0x9400000C, *POPS]
"""3.14's; the call leads right behind it."""
LOADS = 0xF9402C08
"""ldr x8, [x0, #88]"""
ENTRY = [*PUSHES, LOADS, 0xD63F0100, *POPS]
"""3.15's; blr x8."""
STORE_X8 = 0xF9001E88
"""str x8, [x20, #56]"""


def code(instructions: Sequence[int], *behind: int) -> bytes:
    """Machine code, and the words behind it."""
    assert len(instructions) % 2 == 0
    return struct.pack(f"<{len(instructions)}I", *instructions) + words(*behind)


def test_a_shim_ends_where_its_call_leads() -> None:
    shim = code(SHIM)
    assert aarch64.shim(shim + code([NOP, RET])) == Shim(0x68, 0x3C)
    assert aarch64.begins_shim(bytes(0x1000) + shim, 0x1000)
    for damaged in (b"", shim[:8], shim[:0x38], bytes(len(shim)), shim[:-4] + struct.pack("<I", NOP)):
        assert aarch64.shim(damaged) is None
    away = [*PUSHES, 0x97FFFFF0, *POPS]
    assert aarch64.shim(code(away)) is None


def test_the_one_shim_of_3_15_is_known_by_its_call() -> None:
    text = code([NOP, NOP, *SHIM, *ENTRY, NOP])
    start = 8 + len(SHIM) * 4
    found = aarch64.entry_shim(text, 88)
    assert found == EntryShim(start, start + len(ENTRY) * 4, start + 16 * 4)
    assert aarch64.entry_shim(text, 80) is None
    assert aarch64.entry_shim(text[:-12], 88) is None


CONSTANTS = {
    # behind the code: adrp x8, page; ldr x8, [x8, #16]
    "loaded from a page": ([0x90000008, 0xF9400908, NOP, STORE_X8], ADDRESS),
    "loaded from nearby": ([0x58000088, NOP, NOP, STORE_X8], ADDRESS),
    # movz x8, #0x3880; movk x8, #0xc1, lsl #16; movk x8, #0x55, lsl #32
    "in three parts": ([0xD2870008 | 0x8 << 5, 0xF2A01828, 0xF2C00AA8, STORE_X8], 0x5500C13808),
    # adrp x8, .; add x8, x8, #0x780
    "a page and an offset": ([0x90000008, 0x911E0108, NOP, STORE_X8], START + 0x780),
    # adr x8, . + 0x10
    "nearby": ([NOP, 0x10000088, NOP, STORE_X8], START + 0x14),
    # mov x8, #-2
    "negative": ([NOP, 0x92800028, NOP, STORE_X8], (1 << 64) - 2),
    # stp x8, x21, [x20, #56]
    "stored as one of a pair": ([0x58000088, NOP, NOP, 0xA903D688], ADDRESS),
}


@pytest.mark.parametrize("form", CONSTANTS)
def test_a_store_of_the_instruction_pointer_is_found_in_each_form(form: str) -> None:
    instructions, address = CONSTANTS[form]
    assert list(aarch64.stores(code(instructions, ADDRESS), START, OF_3_14)) == [Store(16, address)]
    assert aarch64.names(code(instructions, ADDRESS), START, 0, 16, address, OF_3_14)
    assert not aarch64.names(code(instructions, ADDRESS), START, 0, 12, address, OF_3_14)


NO_CONSTANTS = {
    "a call lies between": [0x58000088, 0x94000001, NOP, STORE_X8],
    "control does not come from there": [0x58000088, 0x14000001, NOP, STORE_X8],
    "calculated": [0x58000088, 0x8B090108, NOP, STORE_X8],
    "loaded from elsewhere": [0xB0000008, 0xF9400908, NOP, STORE_X8],
    "loaded in pairs": [0x58000088, 0xA9402128, NOP, STORE_X8],
    "made nowhere": [NOP, NOP, NOP, STORE_X8],
    "into another frame": [0x58000088, NOP, NOP, 0xF9001EA8],
}


@pytest.mark.parametrize("form", NO_CONSTANTS)
def test_a_store_of_what_is_no_constant_counts_for_nothing(form: str) -> None:
    assert list(aarch64.stores(code(NO_CONSTANTS[form], ADDRESS), START, OF_3_14)) == []


def test_an_exit_computes_the_instruction_pointer_from_an_offset() -> None:
    # mov x9, #0x40; and x8, x8, #~1; add x8, x8, w9, uxtw #1; add x0, x8, #0xd0
    exits = [0xD2800809, NOP, 0x927FF908, 0x8B294508, 0x91034100, RET]
    assert list(aarch64.stores(code(exits), START, OF_3_15)) == [Store(16, None, 0x80)]


def test_a_body_names_its_executor_by_the_flag_that_it_sets() -> None:
    # adrp x10, page; ldr x10, [x10, #0x80]; mov w12, #1; strb w12, [x10, #35]
    body = [0x9000000A, 0xF940414A, 0x5280002C, 0x39008D4C]
    text = code([*SHIM, *body, NOP, RET], ADDRESS)
    assert len(SHIM) * 4 == 0x68
    assert text.index(words(ADDRESS)) == 0x80
    assert aarch64.warmed(text, START, 0x68, 35) == ADDRESS
    assert aarch64.warmed(text, START, 0x68, 34) is None


def test_a_bodys_frame_is_believed_where_the_shim_was_called() -> None:
    shim, frame, back = 0x85D69C, 0x55007FFA30, 0x5491A8
    call = 0x94000000 | (shim - (back - 4)) // 4
    memory = FakeMemory({frame: words(0, back), back - 4: struct.pack("<I", call)})
    assert aarch64.body_cfa(memory, frame, shim, 0) == frame - 0x40
    assert aarch64.body_cfa(memory, frame, shim + 4, 0) is None
