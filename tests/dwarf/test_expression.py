"""DWARF expressions of call frame information, evaluated."""

import pytest

from jitunwind.arch.x86_64.registers import RETURN_ADDRESS, RSP
from jitunwind.dwarf.expression import evaluate_expression
from jitunwind.errors import MalformedFrames

REGISTERS = {RSP: 0x1000, RETURN_ADDRESS: 0x40101B}
MEMORY = {0x1008: 0x1122334455667788}
MASK = (1 << 64) - 1
PLT = bytes(
    [
        *(0x77, 8),  # DW_OP_breg7 (rsp) 8
        *(0x80, 0),  # DW_OP_breg16 (rip) 0
        *(0x3F, 0x1A, 0x3B, 0x2A),  # lit15, and, lit11, ge
        *(0x33, 0x24, 0x22),  # lit3, shl, plus
    ]
)
"""Of each PLT entry (binutils, bfd/elfxx-x86.c): behind its push, at byte 11, the CFA is 8 bytes farther."""


def value(code: bytes, initial: int | None = None) -> int:
    return evaluate_expression(code, REGISTERS, MEMORY.__getitem__, initial)


@pytest.mark.parametrize(("within", "cfa"), [(0, 0x1008), (10, 0x1008), (11, 0x1010), (15, 0x1010)])
def test_the_cfa_of_a_plt_entry(within: int, cfa: int) -> None:
    registers = {RSP: 0x1000, RETURN_ADDRESS: 0x401010 + within}
    assert evaluate_expression(PLT, registers, MEMORY.__getitem__) == cfa


@pytest.mark.parametrize(
    ("code", "result"),
    [
        (b"\x77\x08\x06", 0x1122334455667788),  # breg7+8, deref
        (b"\x77\x08\x94\x02", 0x7788),  # breg7+8, deref_size 2
        (b"\x92\x07\x7c", 0xFFC),  # bregx rsp-4
        (b"\x09\xff", MASK),  # const1s -1
        (b"\x0a\xff\xff", 0xFFFF),  # const2u
        (b"\x10\x80\x02", 256),  # constu
        (b"\x11\x7f", MASK),  # consts -1
        (b"\x03" + bytes(range(8)), 0x0706050403020100),  # addr
        (b"\x35\x32\x1c", 3),  # lit5, lit2, minus
        (b"\x37\x32\x1b", 3),  # lit7, lit2, div
        (b"\x09\xf9\x32\x1b", -3 & MASK),  # -7 div 2: towards zero
        (b"\x37\x32\x1d", 1),  # mod
        (b"\x31\x08\x40\x24", 0),  # 1 shl 64
        (b"\x09\xfe\x31\x26", MASK),  # -2 shra 1
        (b"\x09\xfe\x31\x25", MASK >> 1),  # -2 shr 1
        (b"\x32\x1f\x19", 2),  # lit2, neg, abs
        (b"\x30\x20", MASK),  # lit0, not
        (b"\x31\x23\x7f", 128),  # lit1, plus_uconst 127
        (b"\x31\x32\x33\x17\x13\x1c", 2),  # 1 2 3, rot: 3 1 2; drop; minus: 3 - 1
        (b"\x31\x32\x14\x1c", 1),  # 1 2, over: 1 2 1; minus
        (b"\x34\x31\x15\x01\x1c\x96", (1 - 4) & MASK),  # 4 1, pick 1: 4 1 4; minus; nop
        (b"\x31\x32\x16\x1c", 1),  # 1 2, swap, minus
        (b"\x31\x28\x02\x00\x35\x36\x37", 7),  # lit1, bra +2: over lit5, lit6
        (b"\x2f\x01\x00\x35\x36", 6),  # skip +1
    ],
    ids=lambda value: value.hex() if isinstance(value, bytes) else "",
)
def test_operations(code: bytes, result: int) -> None:
    assert value(code) == result


def test_a_registers_rule_begins_with_the_cfa() -> None:
    assert value(b"\x23\x10", initial=0x2000) == 0x2010


@pytest.mark.parametrize(
    "code",
    [
        b"",  # nothing is left
        b"\x22",  # plus, of nothing
        b"\x31\x30\x1b",  # by 0
        b"\x2f\xfd\xff",  # skip -3: for ever
        b"\x2f\x7f\x7f",  # skip out of itself
        b"\x31\x12\x2f\xfc\xff",  # 1, dup, skip to the dup: grows for ever
        b"\x50",  # reg0: a location
        b"\x0e\x01",  # cut short
        b"\x31\x15\x05",  # pick what is not there
    ],
    ids=bytes.hex,
)
def test_what_is_no_expression_is_refused(code: bytes) -> None:
    with pytest.raises(MalformedFrames):
        value(code)
