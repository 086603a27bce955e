"""Two tables at one instruction: what counts is what they say of the caller of JIT code."""

from hypothesis import given
from hypothesis import strategies as some

from jitunwind.arch.x86_64.registers import R12, R13, R14, R15, RBP, RBX, RETURN_ADDRESS, RSP, X86_64
from jitunwind.explain.differences import difference
from jitunwind.recover.beyond import beyond
from jitunwind.rows import (
    SAME_VALUE,
    UNDEFINED,
    CfaRule,
    InRegister,
    RegisterRule,
    Row,
    SavedAt,
    Unknown,
    evaluate,
)

RA = (RETURN_ADDRESS, SavedAt(-8))
ENTRY = Row(
    CfaRule(RBP, 16),
    (
        (RBX, SavedAt(-56)),
        (RBP, SavedAt(-16)),
        (R12, SavedAt(-48)),
        (R13, SavedAt(-40)),
        (R14, SavedAt(-32)),
        (R15, SavedAt(-24)),
        RA,
    ),
)
"""That of 3.15's _PyJIT_Entry, where bodies return to."""
BODY = Row(CfaRule(RSP, 32), ((RBP, SAME_VALUE), RA))
SAME = tuple((register, SAME_VALUE) for register in (RBX, R12, R13, R14, R15))


def row(cfa: CfaRule, *rules: tuple[int, RegisterRule]) -> Row:
    return Row(cfa, tuple(sorted(rules, key=lambda rule: rule[0])))


def test_what_3_15_publishes_lacks_five_registers() -> None:
    published = row(CfaRule(RBP, 16), (RBP, SavedAt(-16)), RA, *SAME)
    found = difference(X86_64, BODY, published, ENTRY)
    assert found is not None
    assert found.registers == {"rbx": "c-56", "r12": "c-48", "r13": "c-40", "r14": "c-32", "r15": "c-24"}
    assert found.said["rbx"] == "s"


def test_both_frames_as_one_rightly_is_no_difference() -> None:
    assert difference(X86_64, BODY, ENTRY, ENTRY) is None


def test_a_frame_of_its_own_with_registers_that_the_shim_restores_is_no_difference() -> None:
    assert difference(X86_64, BODY, row(CfaRule(RSP, 32), (RBP, SAME_VALUE), RA, *SAME), ENTRY) is None


def test_another_stack_depth_differs_even_where_the_shim_does_not_use_it() -> None:
    found = difference(X86_64, BODY, Row(CfaRule(RSP, 24), BODY.rules), ENTRY)
    assert found is not None
    assert (found.registers, found.said["CFA"]) == ({"CFA": "rsp+32"}, "rsp+24")


def test_another_place_of_the_return_address_differs() -> None:
    other = row(CfaRule(RSP, 32), (RBP, SAME_VALUE), (RETURN_ADDRESS, SavedAt(-16)))
    found = difference(X86_64, BODY, other, ENTRY)
    assert found is not None
    assert found.registers == {"ra": "c-8"}


def test_a_lost_frame_pointer_differs() -> None:
    other = row(CfaRule(RSP, 32), (RBP, UNDEFINED), RA)
    found = difference(X86_64, BODY, other, ENTRY)
    assert found is not None
    assert "rbp" in found.registers


def test_without_a_shim_only_what_is_known_is_compared() -> None:
    other = row(CfaRule(RSP, 32), (RBP, SAME_VALUE), RA, *SAME)
    assert difference(X86_64, BODY, other, Unknown("it is not to be found")) is None
    found = difference(X86_64, BODY, row(CfaRule(RSP, 32), (RBP, SavedAt(-16)), RA), Unknown("…"))
    assert found is not None
    assert found.registers == {"rbp": "s"}


def test_in_the_shim_itself_rows_are_compared_as_they_stand() -> None:
    pushed = row(CfaRule(RSP, 16), (R15, SavedAt(-16)), (RBP, SAME_VALUE), RA)
    assert difference(X86_64, pushed, pushed, None) is None
    found = difference(X86_64, pushed, row(CfaRule(RSP, 16), (R15, SAME_VALUE), (RBP, SAME_VALUE), RA), None)
    assert found is not None
    assert found.registers == {"r15": "c-16"}


REGISTERS = (*X86_64.callee_saved, RETURN_ADDRESS)
offsets = some.integers(-32, 32).map(lambda words: 8 * words)
rules = some.one_of(
    some.just(SAME_VALUE),
    some.just(UNDEFINED),
    offsets.map(SavedAt),
    some.sampled_from(X86_64.callee_saved).map(InRegister),
)
rows = some.builds(
    lambda cfa, said: Row(cfa, tuple(zip(sorted(REGISTERS), said, strict=True))),
    some.builds(CfaRule, some.sampled_from((RSP, RBP)), offsets),
    some.lists(rules, min_size=len(REGISTERS), max_size=len(REGISTERS)),
)


@given(rows, rows)
def test_one_row_for_two_frames_says_what_the_two_say_one_after_the_other(inner: Row, outer: Row) -> None:
    registers = {register: 0x1_0000_0000 + 0x1000_0000 * register for register in range(17)}

    def word(address: int) -> int:
        return address * 0x9E3779B97F4A7C15 & (1 << 64) - 1

    both = beyond(X86_64, inner, outer)
    if both is None:
        return
    callee = evaluate(inner, registers, word, RSP)
    twice = evaluate(outer, callee, word, RSP)
    once = evaluate(both, registers, word, RSP)
    for register in (RSP, *REGISTERS):
        if register in once:
            assert once[register] == twice[register]
