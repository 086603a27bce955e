"""Tables that lead past a gate: code and what has called it as one frame."""

import pytest

from jitunwind.arch import Convention
from jitunwind.arch.x86_64.registers import R12, RBP, RBX, RETURN_ADDRESS, RSP, X86_64
from jitunwind.dwarf.decode import Expression, eh_frame, state_at
from jitunwind.publishing.described import frames_of
from jitunwind.publishing.merged import PastGate
from jitunwind.rows import (
    SAME_VALUE,
    UNDEFINED,
    CfaPlus,
    CfaRule,
    RegisterRule,
    Row,
    SavedAt,
    Unknown,
    UnwindTable,
)

CONVENTION = Convention("preserve_none", preserved=(RBP,))


def row(cfa: int, **rules: RegisterRule) -> Row:
    """By the stack pointer; of registers that are not named nothing is known."""
    known: dict[int, RegisterRule] = dict.fromkeys(X86_64.callee_saved, UNDEFINED)
    names = {"rbx": RBX, "rbp": RBP, "r12": R12, "ra": RETURN_ADDRESS}
    known.update({names[name]: rule for name, rule in rules.items()})
    return Row(CfaRule(RSP, cfa), tuple(sorted(known.items())))


# push r12; push rbx; call: then 24 bytes lie between the stack pointer and the CFA.
GATE = row(24, rbx=SavedAt(-24), r12=SavedAt(-16), ra=SavedAt(-8), rbp=SAME_VALUE)
BODY = row(8, ra=SavedAt(-8), rbp=SAME_VALUE)
PUSHED = row(16, ra=SavedAt(-8), rbp=SavedAt(-16))
CALLED = Row(
    CfaRule(RSP, 8), (*((each, SAME_VALUE) for each in X86_64.callee_saved), (RETURN_ADDRESS, SavedAt(-8)))
)


def test_rows_lead_to_the_gates_caller() -> None:
    """GIVEN a gate's own row, those of a body, of which one has pushed rbp, what nobody knows, and a function that the
    body calls, THEN those of the body alone are changed."""
    nobody = Unknown("data")
    table = UnwindTable(40, [0, 8, 16, 24, 32], [GATE, BODY, PUSHED, nobody, CALLED])
    found = PastGate(X86_64, GATE, CONVENTION).table(table, 8)
    known = {"rbx": SavedAt(-24), "r12": SavedAt(-16), "ra": SavedAt(-8)}
    assert found.rows == [
        GATE,
        row(32, **known, rbp=SAME_VALUE),
        row(40, **known, rbp=SavedAt(-16 - 24)),
        nobody,
        CALLED,
    ]
    assert (found.size, found.offsets) == (table.size, table.offsets)


def test_equal_rows_stay_one_object() -> None:
    """Who encodes rows knows them by identity."""
    past = PastGate(X86_64, GATE, CONVENTION)
    one, other = (past.table(UnwindTable(8, [0], [BODY]), 0).rows[0] for _ in range(2))
    assert one is other


def test_a_frame_pointer_is_said_by_its_distance_from_the_cfa() -> None:
    """And is encoded as an expression that all readers know: DW_OP_plus_uconst 0x2d0."""
    table = PastGate(X86_64, GATE, CONVENTION, 0x2D0).table(UnwindTable(16, [0, 8], [BODY, PUSHED]), 0)
    assert [each.rule(RBP) for each in table.rows if isinstance(each, Row)] == [CfaPlus(0x2D0)] * 2
    (fde,) = eh_frame(frames_of(X86_64, 0x1000, table), 0)
    for offset in (0, 8):
        state = state_at(fde, X86_64.same_value_by_default, offset)
        assert dict(state.rules)[RBP] == Expression(b"\x23\xd0\x05", is_value=True)
        assert state.cfa == CfaRule(RSP, 32 + offset)


def test_a_gate_whose_cfa_is_not_by_the_stack_pointer() -> None:
    with pytest.raises(ValueError, match="stack pointer"):
        PastGate(X86_64, Row(CfaRule(RBP, 16), GATE.rules), CONVENTION)
