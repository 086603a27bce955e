"""The unwind table: what recovery makes and every consumer reads.

Plain immutable data and the one way to evaluate it; no I/O, no architecture, no process. Registers are
DWARF register numbers (System V psABI x86_64, table 3.36; AADWARF64, section 4.1); names belong to `arch`.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

WORD = 8
_MASK = (1 << 64) - 1


class CfaRule(NamedTuple):
    """CFA = register + offset (DW_CFA_def_cfa, DWARF 5 section 6.4.2.2)."""

    register: int
    offset: int


class _Alone:
    """Of a kind whose instances are all the same."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class SameValue(_Alone):
    """The caller's register is in that register still (DW_CFA_same_value)."""

    __slots__ = ()


class SavedAt(NamedTuple):
    """The caller's register is the word at CFA + offset (DW_CFA_offset)."""

    offset: int

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SavedAt) and tuple.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return tuple.__hash__(self)


class InRegister(NamedTuple):
    """The caller's register is in another register now (DW_CFA_register)."""

    register: int

    def __eq__(self, other: object) -> bool:
        return isinstance(other, InRegister) and tuple.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return tuple.__hash__(self)


class Undefined(_Alone):
    """The caller's register is gone (DW_CFA_undefined)."""

    __slots__ = ()


class CfaPlus(NamedTuple):
    """The caller's register is CFA + offset itself (DW_CFA_val_offset). No `Row` that is recovered or read has it;
    those of tables for perf do."""

    offset: int

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CfaPlus) and tuple.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return tuple.__hash__(self)


RegisterRule = SameValue | SavedAt | InRegister | CfaPlus | Undefined

SAME_VALUE = SameValue()
UNDEFINED = Undefined()


class Signed(NamedTuple):
    """The return address, in the column `register`, is signed with `key` ("A" or "B"): a pointer authentication
    code stands in its upper bits (Arm ARM, section D8.10; AADWARF64, RA_SIGN_STATE)."""

    register: int
    key: str


class Row(NamedTuple):
    """The rule at one program counter: how the CFA is found and where each register of the caller is.

    `rules` holds (register, rule) in rising register order; a register that is not listed is undefined.
    """

    cfa: CfaRule
    rules: tuple[tuple[int, RegisterRule], ...]
    signed: Signed | None = None

    def rule(self, register: int) -> RegisterRule:
        for number, rule in self.rules:
            if number == register:
                return rule
        return UNDEFINED


class Unknown(NamedTuple):
    """No rule here, and why: the third verdict beside exact and wrong, never folded into either."""

    reason: str


class UnwindTable(NamedTuple):
    """The rows of one region. Row i holds from `offsets[i]` to `offsets[i + 1]`, the last one to `size`.

    Offsets are bytes from the region's start, rising, the first 0: the rows cover the whole region. Where
    nothing is known (data behind the code, paths that disagree) an `Unknown` stands in the row's place.
    """

    size: int
    offsets: Sequence[int]
    rows: Sequence[Row | Unknown]

    def at(self, offset: int) -> Row | Unknown:
        """The row for the instruction at `offset`; `Unknown` outside the region, too."""
        if not 0 <= offset < self.size:
            return Unknown(f"offset {offset:#x} is outside the region of {self.size:#x} bytes")
        return self.rows[bisect_right(self.offsets, offset) - 1]

    def at_return_address(self, offset: int) -> Row | Unknown:
        """The row for a caller that will go on at `offset`: that of the call before, where there is no code
        behind it any more."""
        row = self.at(offset)
        if isinstance(row, Unknown):
            call = self.at(offset - 1)
            return call if isinstance(call, Row) else row
        return row

    def part(self, start: int, end: int) -> "UnwindTable":
        """The table of [start, end), offsets that are whole instructions', as of a region of its own."""
        first = bisect_right(self.offsets, start) - 1
        behind = bisect_left(self.offsets, end)
        offsets = [max(offset - start, 0) for offset in self.offsets[first:behind]]
        return UnwindTable(end - start, offsets, self.rows[first:behind])

    def spans(self) -> Iterator[tuple[int, int, Row | Unknown]]:
        """Each row as (first offset, offset behind it, row)."""
        ends = [*self.offsets, self.size][1:]
        yield from zip(self.offsets, ends, self.rows, strict=True)


def cfa_of(row: Row, registers: Mapping[int, int]) -> int:
    """The CFA by `row`, 64-bit. KeyError where the row's CFA register is not among `registers`."""
    return (registers[row.cfa.register] + row.cfa.offset) & _MASK


def evaluate(
    row: Row,
    registers: Mapping[int, int],
    read_word: Callable[[int], int],
    stack_pointer: int,
    without_signature: Callable[[int], int] | None = None,
) -> dict[int, int]:
    """The caller's registers by `row`, at the state `registers` (register number to 64-bit value).

    Undefined registers are left out; `stack_pointer` (its register number) is the CFA. `without_signature`
    (`Architecture.without_signature`) takes the signature off a signed return address; ValueError for one where it is
    not given. What `read_word` raises for memory that cannot be read passes through.
    """
    cfa = cfa_of(row, registers)
    caller = {stack_pointer: cfa}
    for register, rule in row.rules:
        if isinstance(rule, SavedAt):
            caller[register] = read_word((cfa + rule.offset) & _MASK)
        elif isinstance(rule, SameValue):
            if register in registers:
                caller[register] = registers[register]
        elif isinstance(rule, InRegister) and rule.register in registers:
            caller[register] = registers[rule.register]
    if row.signed is not None and row.signed.register in caller:
        if without_signature is None:
            raise ValueError(
                "the return address is signed, and nothing is given that takes the signature off"
            )
        caller[row.signed.register] = without_signature(caller[row.signed.register])
    return caller
