"""The sweep knows instructions by their first bytes: here, against iced decoding each by itself."""

import shutil
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import example, given, settings
from hypothesis import strategies as st
from iced_x86 import Code
from iced_x86 import Decoder as Iced
from iced_x86 import FlowControl as Flow

from jitunwind.arch.effects import Control
from jitunwind.arch.x86_64.effects import decode
from jitunwind.arch.x86_64.registers import X86_64

FOLLOWED = (X86_64.stack_pointer, *X86_64.callee_saved)
STRETCHES, LENGTH = 60, 3000


def assert_as_one_by_one(code: bytes) -> None:
    steps, starts = decode(code, 0, FOLLOWED)
    decoder = Iced(64, code)
    instructions = {ins.ip: ins for ins in (decoder.decode() for _ in starts)}
    assert starts == list(instructions)
    for offset, after, _, control, target in steps:
        ins = instructions[offset]
        if ins.code == Code.INVALID:
            assert (control, target) == (Control.HALT, None)
            continue
        assert after == ins.next_ip
        if target is not None:
            assert target % (1 << 64) == ins.near_branch_target
        elif control in (Control.JUMP, Control.CALL):
            assert ins.flow_control in (Flow.INDIRECT_BRANCH, Flow.INDIRECT_CALL)
        assert (control is Control.NEXT) <= (
            ins.flow_control in (Flow.NEXT, Flow.CALL, Flow.XBEGIN_XABORT_XEND)
        )


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
@example(b"\x48\x8b\x44\x24")  # a form that four bytes tell, cut off
@example(b"\x66\x0f\x1f\x44\x00\x00\xc3\x66\x0f\x1f\x44\x00")
@example(b"\x66\xe9\x00\x00\x00\x00\xc3")  # AMD's and Intel's processors take it for different jumps
@example(b"\xe8\x00\x00\x00\x00\x58\xc3")
def test_any_bytes_are_decoded_as_one_by_one(code):
    assert_as_one_by_one(code)
    assert_as_one_by_one(code + bytes([0x90] * 20))  # not near the end: the forms are remembered
    assert_as_one_by_one(code)


def test_real_code_cut_off_anywhere_is_decoded_as_one_by_one():
    program = Path(shutil.which("gdb") or pytest.fail("needs gdb"))
    with open(program, "rb") as file:
        text = ELFFile(file).get_section_by_name(".text").data()
    for index in range(STRETCHES):
        start = index * (len(text) // STRETCHES)
        assert_as_one_by_one(text[start : start + LENGTH + index])
