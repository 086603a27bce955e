"""What is known of the machine's state at one instruction: the abstract domain that recovery works in.

A value is an `int` n: the address CFA + n; an `Entry`: what a register held at the function's first
instruction; or a `Number`. Registers and stack slots of which nothing is known are absent.

Code has many instructions and few states. So equal states are one object, made by one `States`, which also
remembers what follows each state by each instruction's effects: nearly every step is one look-up.
"""

from collections.abc import Mapping
from typing import NamedTuple

from jitunwind.arch import Architecture, Convention
from jitunwind.arch.effects import Add, Assign, Clobber, Effects, Load, Set, Sign, Store
from jitunwind.rows import (
    SAME_VALUE,
    UNDEFINED,
    WORD,
    CfaRule,
    InRegister,
    RegisterRule,
    Row,
    SameValue,
    SavedAt,
    Signed,
)


class Entry(NamedTuple):
    """The value that a register (DWARF number; the return-address column, too) had at entry; with a `key`, signed
    with that."""

    register: int
    key: str = ""


class Number(NamedTuple):
    """A number, such as the size of a frame that is too large for an immediate."""

    value: int


Value = int | Entry | Number
KEYS = ("", "A", "B")
"""Those that a return address may be signed with, and none."""


class State:
    """Registers and stack slots (by their offset from the CFA) with the values known of them. Immutable."""

    __slots__ = ("_preserved", "after", "after_call", "met", "registers", "row", "slots")

    def __init__(self, registers: Mapping[int, Value], slots: Mapping[int, Value], row: Row | None) -> None:
        self.registers = registers
        self.slots = slots
        self.row = row
        """The row that describes this state; None where no register gives the CFA."""
        self.after: dict[Effects, State] = {}
        self.after_call: State | None = None
        self.met: dict[State, State] = {}
        values = (*registers.values(), *slots.values())
        self._preserved = frozenset(value.register for value in values if isinstance(value, Entry))

    def keeps(self, register: int) -> bool:
        """Whether the entry value of `register` is anywhere."""
        return register in self._preserved

    def holds(self, register: int, rule: RegisterRule, key: str = "") -> bool:
        """Whether the entry value of `register`, signed with `key` if there is one, is where `rule` says: the
        question an audit asks."""
        value = Entry(register, key)
        if isinstance(rule, SameValue):
            return self.registers.get(register) == value
        if isinstance(rule, SavedAt):
            return self.slots.get(rule.offset) == value
        if isinstance(rule, InRegister):
            return self.registers.get(rule.register) == value
        return False

    def holds_signed(self, register: int, rule: RegisterRule) -> bool:
        """The same for any key, or none."""
        return any(self.holds(register, rule, key) for key in KEYS)

    def finds_cfa(self, rule: CfaRule) -> bool:
        """Whether `rule` gives the CFA here."""
        return self.registers.get(rule.register) == -rule.offset

    def place(self, register: int) -> str:
        """Where `register` points, for messages."""
        value = self.registers.get(register)
        return f"at CFA{value:+d}" if isinstance(value, int) else "unknown"


class States:
    """Makes the states of one architecture, and what follows from each."""

    def __init__(self, arch: Architecture) -> None:
        self._arch = arch
        self._tracked = tuple(sorted((*arch.callee_saved, arch.return_address)))
        self._states: dict[tuple[frozenset[tuple[int, Value]], frozenset[tuple[int, Value]]], State] = {}
        self._rows: dict[Row, Row] = {}

    def make(self, registers: Mapping[int, Value], slots: Mapping[int, Value]) -> State:
        key = (frozenset(registers.items()), frozenset(slots.items()))
        state = self._states.get(key)
        if state is None:
            state = self._states[key] = State(registers, slots, self._row(registers, slots))
        return state

    def entry(self, convention: Convention) -> State:
        """The state at the first instruction of a function called by `convention`."""
        return self.of_row(self._arch.at_entry(convention))

    def of_row(self, row: Row) -> State:
        """The state that `row` describes."""
        registers: dict[int, Value] = {row.cfa.register: -row.cfa.offset}
        slots: dict[int, Value] = {}
        for register, rule in row.rules:
            signed = row.signed is not None and row.signed.register == register
            value = Entry(register, row.signed.key if row.signed is not None and signed else "")
            if isinstance(rule, SameValue):
                registers[register] = value
            elif isinstance(rule, SavedAt):
                slots[rule.offset] = value
            elif isinstance(rule, InRegister):
                registers[rule.register] = value
        return self.make(registers, slots)

    def meet(self, one: State, other: State) -> State:
        """What holds in both."""
        both = one.met.get(other)
        if both is None:
            registers = dict(one.registers.items() & other.registers.items())
            slots = dict(one.slots.items() & other.slots.items())
            if self._arch.stack_pointer not in registers:
                for state in (one, other):
                    slots = _above(slots, state.registers.get(self._arch.stack_pointer))
            both = one.met[other] = self.make(registers, slots)
        return both

    def after_call(self, state: State) -> State:
        """The state behind a call that has come back."""
        if state.after_call is None:
            depth = state.registers.get(self._arch.stack_pointer)
            state.after_call = self.make(
                {r: value for r, value in state.registers.items() if r not in self._arch.caller_saved},
                _above(state.slots, depth),
            )
        return state.after_call

    def after_call_to(self, state: State, entry: State) -> State:
        """`state`, as `after_call` made it, where the called code is entered in state `entry`.

        It hands back only what that keeps: a body that a shim calls keeps less than the platform's convention.
        """
        preserved = {
            register: value
            for register, value in state.registers.items()
            if register not in self._arch.callee_saved or entry.keeps(register)
        }
        return self.make(preserved, state.slots)

    def after(self, state: State, effects: Effects) -> State:
        """The state behind an instruction of these effects."""
        following = state.after.get(effects)
        if following is None:
            following = state.after[effects] = self._apply(state, effects)
        return following

    def _apply(self, state: State, effects: Effects) -> State:
        registers, slots = dict(state.registers), dict(state.slots)
        sp = self._arch.stack_pointer
        for effect in effects:
            depth = registers.get(sp)
            if isinstance(effect, (Assign, Add)):
                value = registers.get(effect.source)
                addend = self._addend(effect, registers)
                if addend != 0:
                    value = value + addend if isinstance(value, int) and addend is not None else None
                _set(registers, effect.target, value)
                if effect.target == sp and isinstance(value, int):
                    limit = value - self._arch.red_zone
                    slots = {at: held for at, held in slots.items() if at >= limit}
            elif isinstance(effect, Store):
                base = registers.get(effect.base)
                if isinstance(base, int):
                    start, end = base + effect.offset, base + effect.offset + effect.size
                    slots = {at: held for at, held in slots.items() if at >= end or start >= at + WORD}
                    value = registers.get(effect.source) if effect.source is not None else None
                    if value is not None and effect.size == WORD:
                        slots[start] = value
            elif isinstance(effect, Load):
                base = registers.get(effect.base)
                held = slots.get(base + effect.offset) if isinstance(base, int) else None
                _set(registers, effect.target, held)
            elif isinstance(effect, Clobber):
                registers.pop(effect.target, None)
            elif isinstance(effect, Set):
                registers[effect.target] = Number(effect.value)
            elif isinstance(effect, Sign):
                value = registers.get(effect.target)
                signed = Entry(value.register, effect.key) if isinstance(value, Entry) else None
                _set(registers, effect.target, signed)
            else:
                both = registers.get(effect.one), registers.get(effect.other)
                _set(registers, effect.other, both[0])
                _set(registers, effect.one, both[1])
            if sp not in registers:
                slots = _above(slots, depth)
        return self.make(registers, slots)

    @staticmethod
    def _addend(effect: Assign | Add, registers: Mapping[int, Value]) -> int | None:
        """What is added; None where it is not known."""
        if isinstance(effect, Assign):
            return effect.addend
        number = registers.get(effect.other)
        return effect.factor * number.value if isinstance(number, Number) else None

    def _row(self, registers: Mapping[int, Value], slots: Mapping[int, Value]) -> Row | None:
        cfa = self._cfa(registers)
        if cfa is None:
            return None
        key = self._signed_by(registers, slots)
        signed = Signed(self._arch.return_address, key) if key else None
        row = Row(cfa, tuple((r, self._rule(r, registers, slots, key)) for r in self._tracked), signed)
        return self._rows.setdefault(row, row)

    def _signed_by(self, registers: Mapping[int, Value], slots: Mapping[int, Value]) -> str:
        """The key by which the return address is signed where `_rule` looks for it; "", where it is as the caller
        gave it."""
        in_frame = _above(slots, registers.get(self._arch.stack_pointer))
        for places in (in_frame, registers, slots):
            keys = [
                value.key
                for value in places.values()
                if isinstance(value, Entry) and value.register == self._arch.return_address
            ]
            if keys:
                return min(keys)
        return ""

    def _cfa(self, registers: Mapping[int, Value]) -> CfaRule | None:
        for register in (self._arch.stack_pointer, *sorted(registers)):
            value = registers.get(register)
            if isinstance(value, int):
                return CfaRule(register, -value)
        return None

    def _rule(
        self, register: int, registers: Mapping[int, Value], slots: Mapping[int, Value], key: str
    ) -> RegisterRule:
        """Where the entry value is. A slot of the frame comes before the register itself: unwinders look at
        the call instruction's row when the call is to come back (they look up RA - 1), and code that is called
        may keep less than the platform's convention; what lies in the caller's frame, it leaves alone."""
        wanted = Entry(register, key if register == self._arch.return_address else "")
        saved = [offset for offset, value in slots.items() if value == wanted]
        in_frame = _above(dict.fromkeys(saved, wanted), registers.get(self._arch.stack_pointer))
        if in_frame:
            return SavedAt(max(in_frame))
        if registers.get(register) == wanted:
            return SAME_VALUE
        if saved:
            return SavedAt(max(saved))
        holders = [other for other, value in registers.items() if value == wanted]
        return InRegister(min(holders)) if holders else UNDEFINED


def _set(registers: dict[int, Value], target: int, value: Value | None) -> None:
    if value is None:
        registers.pop(target, None)
    else:
        registers[target] = value


def _above(slots: Mapping[int, Value], depth: Value | None) -> dict[int, Value]:
    """The slots that nobody overwrites who pushes from the stack pointer `depth` on."""
    return {at: held for at, held in slots.items() if not isinstance(depth, int) or at >= depth}
