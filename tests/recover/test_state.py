"""The abstract domain: what follows a state, what holds in two, and the row that describes one."""

import pytest

from jitunwind.arch.effects import Assign, Clobber, Load, Store, effects
from jitunwind.arch.x86_64.registers import R12, RAX, RBP, RBX, RCX, RETURN_ADDRESS, RSP, X86_64
from jitunwind.jits.cpython.stencils.x86_64 import CONVENTION
from jitunwind.recover.state import Entry, State, States
from jitunwind.rows import SAME_VALUE, UNDEFINED, CfaRule, InRegister, SavedAt
from tests.support.assembly import told


@pytest.fixture
def states() -> States:
    return States(X86_64)


@pytest.fixture
def entry(states) -> State:
    return states.entry(X86_64.platform)


def test_the_state_at_entry(states, entry):
    assert told(entry.row) == "rsp+8"
    assert all(entry.holds(register, SAME_VALUE) for register in X86_64.callee_saved)
    assert entry.holds(RETURN_ADDRESS, SavedAt(-8))
    assert entry.finds_cfa(CfaRule(RSP, 8))
    assert not entry.finds_cfa(CfaRule(RSP, 16))
    assert entry.place(RSP) == "at CFA-8"
    assert entry.place(RAX) == "unknown"
    assert told(states.entry(CONVENTION).row) == "rsp+8 rbx=lost r12=lost r13=lost r14=lost r15=lost"


def test_equal_states_are_one_object(states, entry):
    there = states.after(entry, effects(Assign(RSP, RSP, -8)))
    assert there is not entry
    assert states.after(there, effects(Assign(RSP, RSP, 8))) is entry
    assert states.after(entry, effects()) is entry


def test_what_an_audit_asks_of_a_state(states, entry):
    state = states.after(entry, effects(Assign(RAX, RBX, 0), Store(RSP, -8, RBX, 8)))
    for rule in (SAME_VALUE, InRegister(RAX), SavedAt(-16)):
        assert state.holds(RBX, rule)
    for rule in (InRegister(RCX), SavedAt(-8), UNDEFINED):
        assert not state.holds(RBX, rule)
    assert state.keeps(RBX)
    assert not states.after(entry, effects(Clobber(RBX))).keeps(RBX)


def test_a_load_of_an_unknown_slot_is_not_known(states, entry):
    assert RBX not in states.after(entry, effects(Load(RBX, RSP, 64))).registers
    assert RBX not in states.after(entry, effects(Load(RBX, RCX, 0))).registers
    assert states.after(entry, effects(Load(RBX, RSP, 0))).registers[RBX] == Entry(RETURN_ADDRESS)


def test_arithmetic_on_anything_but_addresses_is_not_known(states, entry):
    assert RAX not in states.after(entry, effects(Assign(RAX, RBX, 8))).registers
    assert states.after(entry, effects(Assign(RAX, RSP, -8))).registers[RAX] == -16


@pytest.mark.parametrize(
    ("offset", "size", "held"), [(-24, 8, True), (-23, 8, False), (-9, 1, False), (-8, 8, True)]
)
def test_a_store_takes_the_slots_that_it_touches(states, entry, offset, size, held):
    state = states.after(entry, effects(Store(RSP, -8, RBX, 8), Clobber(RBX)))
    state = states.after(state, effects(Store(RSP, offset + 8, None, size)))
    assert state.keeps(RBX) is held


def test_a_store_through_an_unknown_register_touches_no_slot(states, entry):
    state = states.after(entry, effects(Store(RSP, -8, RBX, 8), Clobber(RBX), Store(RCX, 0, None, 8)))
    assert state.keeps(RBX)


def test_half_a_register_in_a_slot_is_not_known(states, entry):
    assert -16 not in states.after(entry, effects(Store(RSP, -8, RBX, 4))).slots


def test_a_meet_holds_what_both_hold(states, entry):
    saved = states.after(entry, effects(Store(RSP, -8, RBX, 8)))
    one = states.after(saved, effects(Clobber(RBX)))
    other = states.after(saved, effects(Clobber(R12)))
    both = states.meet(one, other)
    assert told(both.row) == "rsp+8 rbx@-16 r12=lost"
    assert states.meet(other, one) is both
    assert states.meet(both, one) is both
    assert states.meet(one, one) is one


def test_a_meet_of_two_depths_forgets_what_a_push_may_overwrite(states, entry):
    framed = states.after(entry, effects(Assign(RBP, RSP, 0), Store(RSP, -8, RBX, 8), Clobber(RBX)))
    deep = states.after(framed, effects(Assign(RSP, RSP, -16)))
    assert told(states.meet(framed, deep).row) == "rbp+8 rbx=lost rbp=lost"
    assert told(states.meet(deep, deep).row) == "rsp+24 rbx@-16 rbp=lost"


def test_an_unknown_stack_pointer_forgets_the_red_zone(states, entry):
    framed = states.after(entry, effects(Assign(RBP, RSP, 0), Store(RSP, -8, RBX, 8), Clobber(RBX)))
    assert told(states.after(framed, effects(Clobber(RSP))).row) == "rbp+8 rbx=lost rbp=lost"


def test_a_call_keeps_what_the_convention_keeps(states, entry):
    state = states.after(entry, effects(Assign(RAX, RBX, 0), Assign(R12, RBX, 0), Store(RSP, -8, RBP, 8)))
    after = states.after_call(state)
    assert RAX not in after.registers
    assert after.registers[R12] == Entry(RBX)
    assert set(after.slots) == {-8}


def test_a_row_prefers_the_register_then_the_slot_nearest_the_cfa_then_another_register(states, entry):
    state = states.after(entry, effects(Assign(RCX, RBX, 0), Assign(RAX, RBX, 0)))
    state = states.after(state, effects(Store(RSP, -16, RBX, 8), Store(RSP, -8, RBX, 8)))
    assert state.row.rule(RBX) == SAME_VALUE
    state = states.after(state, effects(Clobber(RBX)))
    assert state.row.rule(RBX) == SavedAt(-16)
    state = states.after(state, effects(Store(RSP, -16, None, 16)))
    assert state.row.rule(RBX) == InRegister(RAX)
    state = states.after(state, effects(Clobber(RAX), Clobber(RCX)))
    assert state.row.rule(RBX) == UNDEFINED


def test_the_choice_of_a_register_does_not_depend_on_history(states, entry):
    orders = [(RAX, RCX), (RCX, RAX)]
    rows = {
        States(X86_64).after(entry, effects(*(Assign(r, RBX, 0) for r in order), Clobber(RBX))).row.rule(RBX)
        for order in orders
    }
    assert rows == {InRegister(RAX)}


def test_a_state_without_the_cfa_has_no_row(states, entry):
    assert states.after(entry, effects(Clobber(RSP))).row is None
