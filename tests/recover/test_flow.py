"""Control flow and data flow: where code is left and in what state, and which paths disagree."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitunwind.arch.effects import Clobber, Control, Decoded, Step, effects
from jitunwind.arch.x86_64.effects import decode
from jitunwind.arch.x86_64.registers import RBX, RSP, X86_64
from jitunwind.recover import flow, straight
from jitunwind.recover.flow import Disagreement, Exit, Flow, NoReturn, analyze, leaves
from jitunwind.recover.state import States
from tests.support.assembly import Code, assemble, told
from tests.support.compiled import real_code
from tests.support.sanitized import run_sanitized

STRETCHES, LENGTH = 40, 3000
PARTS = (
    *("55", "5d", "53", "5b", "4883ec08", "4883c408", "4889e5", "c9", "c3", "ffd0", "ffe0", "4889c3", "c3"),
    *(
        "7405",
        "75f0",
        "eb03",
        "ebf6",
        "e800000000",
        "e8f0ffffff",
        "0f8410000000",
        "0f85e0ffffff",
        "cc",
        "90",
        "0f0b",
    ),
)
"""Instructions, in hexadecimal, of which many change the state, branch or leave."""
SANITIZED = """
import gc, sys
from random import Random
module = load("jitunwind.recover.straight")
from jitunwind.arch.x86_64.effects import decode
from jitunwind.arch.x86_64.registers import X86_64
from jitunwind.recover import flow
from jitunwind.recover.state import States
random = Random(1)
with open(sys.executable, "rb") as file:
    code = file.read()
states = States(X86_64)
entry = {0: states.entry(X86_64.platform)}
def flows(part):
    for flow.skip in (module.skip, None):
        found = flow.analyze(X86_64, states, part, decode, entry, range(16))
        yield found.states, found.ends, found.exits, found.disagreements
before = []
for turn in range(2):
    for _ in range(300):
        start = random.randrange(len(code) // 2)
        one, other = flows(code[start : start + random.randrange(600)])
        assert one == other
    del one, other
    gc.collect()
    before.append(sys.getrefcount(None))
# Some states are made for the first time in the second turn; a reference lost for each step would be thousands.
assert abs(before[1] - before[0]) < 3000, before
print("the same")
"""
LEFT_RIGHT = {"at_entry_state": True}
LEFT_WRONG = {"at_entry_state": False}


def flow_of(code: Code, indirect=leaves, never_return=()) -> Flow:
    states = States(X86_64)
    entry = {0: states.entry(X86_64.platform)}
    return analyze(X86_64, states, code.bytes, decode, entry, range(16), indirect, NoReturn(never_return))


def exits(source: str) -> dict[str, Exit]:
    """The exits of `source` by the labels of the leaving instructions."""
    code = assemble(source)
    names = {offset: name for name, offset in code.labels.items()}
    return {names.get(at, hex(at)): found for at, found in flow_of(code).exits.items()}


def test_a_return_at_the_entry_state():
    found = exits("push rbx; pop rbx; end: ret")
    assert found == {"end": Exit(None, returns=True, **LEFT_RIGHT)}


@pytest.mark.parametrize("before", ["push rax", "pop rax", "xor ebx, ebx", "push rbx; pop rbp; sub rsp, 8"])
def test_a_return_in_another_state(before):
    assert exits(f"{before}; end: ret") == {"end": Exit(None, returns=True, **LEFT_WRONG)}


def test_an_indirect_jump_is_a_tail_call():
    assert exits("end: jmp [rax]") == {"end": Exit(None, returns=False, **LEFT_RIGHT)}
    assert exits("push rbx; end: jmp rax") == {"end": Exit(None, returns=False, **LEFT_WRONG)}


def test_jumps_out_of_the_code_are_tail_calls():
    found = exits(
        "push rax; je first + 0x1000; first: pop rax; js first - 0x1000; second: jmp first + 0x2000"
    )
    assert {name: (exit_.target is not None, exit_.at_entry_state) for name, exit_ in found.items()} == {
        "0x1": (True, False),
        "0x8": (True, True),
        "second": (True, True),
    }


def test_a_jump_to_just_behind_the_code_leaves_it():
    code = assemble("end: jmp behind; behind:")
    assert flow_of(code).exits == {0: Exit(len(code.bytes), returns=False, **LEFT_RIGHT)}


def test_code_that_runs_out_leaves_at_its_end():
    code = assemble("push rbx; end: nop")
    assert flow_of(code).exits == {0: Exit(2, returns=False, **LEFT_WRONG)}


def test_a_trap_is_no_exit():
    assert exits("push rax; ud2") == {}


def test_a_disagreement_names_both_paths_and_their_calls():
    code = assemble("""
        test edi, edi
        je other
        push rax
    one_call:
        call [rbx]
    one:
        jmp meet
    other:
        test esi, esi
    two:
        jne meet
        ret
    meet:
        nop
    """)
    at = code.labels
    flow = flow_of(code)
    found = flow.disagreements[at["meet"]]
    assert set(zip(found.sources, found.calls, strict=True)) == {
        (at["one"], at["one_call"]),
        (at["two"], None),
    }
    assert "disagree on the CFA" in str(found)
    assert f"meet at +{at['meet']:#x}" in str(found)


def test_a_disagreement_about_a_register_names_it():
    code = assemble("test edi, edi; je meet; mov rax, rbx; mov ebx, 1; meet: ret")
    (found,) = flow_of(code).disagreements.values()
    assert found == Disagreement(code.labels["meet"], (2, 7), (None, None), "where rbx is")


def test_a_call_that_never_returns_has_no_path_behind_it():
    source = "test edi, edi; je meet; push rax; stop: call [rax]; meet: ret"
    code = assemble(source)
    assert flow_of(code).disagreements
    assert not flow_of(code, never_return=[code.labels["stop"]]).disagreements


def test_targets_of_an_indirect_jump():
    """The cases of a switch, the first falling through into the second."""
    code = assemble("""
        push rbx
        xor ebx, ebx
    switch:
        jmp [rdi*8]
    first:
        mov r12, [rsp]
        xor r13d, r13d
    second:
        nop
    third:
        pop rbx
        ret
    """)
    at = code.labels
    cases = [at["third"], at["first"], at["second"]]
    flow = flow_of(code, lambda offset: cases if offset == at["switch"] else ())
    rows = {name: told(flow.states[at[name]].row) for name in ("first", "second", "third")}
    assert rows == {
        "first": "rsp+16 rbx@-16",
        "second": "rsp+16 rbx@-16 r12=lost r13=lost",
        "third": "rsp+16 rbx@-16 r12=lost r13=lost",
    }
    assert [exit_.at_entry_state for exit_ in flow.exits.values()] == [False]


def test_a_targets_order_does_not_matter():
    code = assemble("""
    switch:
        jmp [rdi*8]
    first:
        xor ebx, ebx
        nop
    second:
        nop
        ret
    """)
    at = code.labels
    cases = [at["first"], at["second"]]
    one, other = (flow_of(code, lambda _, cases=cases: cases) for cases in (cases, cases[::-1]))
    assert told(one.states[at["second"]].row) == "rsp+8 rbx=lost"
    assert {at: told(state.row) for at, state in one.states.items()} == {
        at: told(state.row) for at, state in other.states.items()
    }


def test_a_decoder_that_refuses_leaves_the_path_open():
    states = States(X86_64)
    entry = {0: states.entry(X86_64.platform)}
    jump = Step(0, 2, effects(), Control.JUMP, 5)

    def refusing(code, offset, followed):
        return Decoded([jump], [0, 2, 4, 6]) if offset == 0 else Decoded([], [])

    flow = analyze(X86_64, states, bytes(8), refusing, entry, [RSP])
    assert flow.exits == {5: Exit(8, returns=False, at_entry_state=False)}


def test_a_decoder_is_asked_once_for_a_straight_run():
    asked = []

    def counting(code, offset, followed):
        asked.append(offset)
        return Decoded(
            [Step(0, 1, effects(Clobber(RBX))), Step(3, 4, effects(), Control.RETURN)], [0, 1, 2, 3]
        )

    states = States(X86_64)
    analyze(X86_64, states, bytes(4), counting, {0: states.entry(X86_64.platform)}, [RSP, RBX])
    assert asked == [0]


def flows(code: bytes, skip_states) -> tuple[Flow, Flow | None]:
    """With that for `skip`: of code that is entered at its start by the platform's convention, and of it alone."""
    states = States(X86_64)
    entry = {0: states.entry(X86_64.platform)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flow, "skip", skip_states)
        return (
            analyze(X86_64, states, code, decode, entry, range(16)),
            analyze(X86_64, states, code, decode, entry, range(16), callees=entry, enters_calls=False),
        )


def assert_the_same_in_c(code: bytes) -> None:
    for one, other in zip(flows(code, None), flows(code, straight.skip), strict=True):
        assert {at: (s.registers, s.slots) for at, s in one.states.items()} == {
            at: (s.registers, s.slots) for at, s in other.states.items()
        }
        assert (one.ends, one.exits, one.called) == (other.ends, other.exits, other.called)
        assert one.disagreements == other.disagreements
        assert all(type(each) is Exit for each in other.exits.values())


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(PARTS), max_size=40))
def test_the_walk_in_c_comes_to_the_same(parts):
    assert_the_same_in_c(b"".join(map(bytes.fromhex, parts)))


def test_the_walk_in_c_comes_to_the_same_in_real_code():
    for code in real_code(STRETCHES, LENGTH):
        assert_the_same_in_c(code)


def test_the_walk_in_c_under_sanitizers(tmp_path):
    """AddressSanitizer and UndefinedBehaviorSanitizer; and as many references at the end as in the beginning."""
    done = run_sanitized(Path(flow.__file__).with_name("straight.c"), tmp_path, SANITIZED)
    assert (done.stdout, done.stderr, done.returncode) == ("the same\n", "", 0)
