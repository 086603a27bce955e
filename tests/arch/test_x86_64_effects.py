"""The sweep knows instructions by their first bytes: here, against iced decoding each by itself."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from iced_x86 import Code
from iced_x86 import Decoder as Iced
from iced_x86 import FlowControl as Flow

from jitunwind.arch.effects import Control, Decoded, Step
from jitunwind.arch.x86_64 import effects, semantics
from jitunwind.arch.x86_64.effects import decode
from jitunwind.arch.x86_64.form import LONGEST, Form
from jitunwind.arch.x86_64.forms import Forms
from jitunwind.arch.x86_64.known_forms import EFFECTS, FORMS
from jitunwind.arch.x86_64.registers import X86_64
from jitunwind.arch.x86_64.sweep import sweep
from tests.support.compiled import real_code
from tests.support.sanitized import run_sanitized

FOLLOWED = (X86_64.stack_pointer, *X86_64.callee_saved)
STRETCHES, LENGTH = 60, 3000


def decoded(code: bytes) -> Decoded:
    """By the sweep in C, and by that in Python, which are the same; either may be the first to meet a form."""
    sweeps = [effects._sweep, sweep]
    found = []
    for each in sweeps if len(code) % 2 else reversed(sweeps):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(effects, "sweep", each)
            found.append(decode(code, 0, FOLLOWED))
    assert found[0] == found[1]
    assert all(type(step) is Step for each in found for step in each.steps)
    return found[0]


def assert_as_one_by_one(code: bytes) -> None:
    steps, starts = decoded(code)
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
    for code in real_code(STRETCHES, LENGTH):
        assert_as_one_by_one(code)


SANITIZED = """
import sys
from random import Random
module = load("jitunwind.arch.x86_64.sweep")
from jitunwind.arch.x86_64 import effects
random = Random(1)
with open(sys.executable, "rb") as file:
    code = file.read()
followed = (3, 6, 7, 12, 13, 14, 15)
for _ in range(300):
    start = random.randrange(len(code) // 2)
    part = code[start : start + random.randrange(600)]
    found = []
    for effects.sweep in (module.sweep, effects._sweep):
        found.append(effects.decode(part, 0, followed))
    assert found[0] == found[1]
print("the same")
"""


def test_the_sweep_in_c_reads_nothing_but_the_code(tmp_path):
    """Under AddressSanitizer and UndefinedBehaviorSanitizer."""
    done = run_sanitized(Path(effects.__file__).with_name("sweep.c"), tmp_path, SANITIZED)
    assert (done.stdout, done.stderr, done.returncode) == ("the same\n", "", 0)


@pytest.mark.parametrize("constants", [b"\0", b"\xff", b"\x7f"])
def test_each_known_form_is_what_iced_says_whatever_the_constants(constants):
    for key, fields in FORMS.items():
        told, form = semantics.form_at(key.ljust(LONGEST, constants), 0)
        if fields:
            assert (key, Form(*fields)) == (key, form)
            assert told <= len(key)
        else:
            assert told > len(key), key


def test_what_whole_instructions_are_known_to_do_is_what_iced_says():
    for followed, known in EFFECTS.items():
        for instruction in known:
            asked = Forms(frozenset(followed))
            _, form = semantics.form_at(instruction, 0)
            effects = semantics.effects_of(form.handler, instruction, frozenset(followed))
            assert (instruction, asked.effects_of(form.handler, instruction)) == (instruction, effects)


def test_iced_is_not_needed_for_forms_that_are_known():
    code = bytes.fromhex("4157 4156 4155 4154 53 ffd0 5b 415c 415d 415e 415f c3")  # as shims of CPython 3.14
    followed = (X86_64.stack_pointer, X86_64.return_address, *X86_64.callee_saved)
    question = (
        "import sys; from jitunwind.arch.x86_64.effects import decode; "
        f"print(len(decode({code!r}, 0, {followed})[1]), 'iced_x86' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", question], capture_output=True, text=True, check=True)
    assert done.stdout == "12 False\n"
