"""Recovered states against an unwind table: a verdict for each instruction, exact, wrong or unknown.

In come one function's flow, the places where its instructions start, and the table that somebody else (a
compiler, an assembler's programmer, a JIT) wrote for the same bytes. A rule is true where the state has the
value there, however many other true descriptions there are: rbx popped but still intact at CFA-16 in the
red zone is `same value` as well as `saved at CFA-16`.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from jitunwind.arch import Architecture
from jitunwind.recover.flow import Flow
from jitunwind.recover.state import State, Value
from jitunwind.rows import (
    CfaRule,
    InRegister,
    RegisterRule,
    Row,
    SameValue,
    SavedAt,
    Undefined,
    Unknown,
    UnwindTable,
)

NOT_REACHED = "not reached by control flow"
PADDING = "padding between blocks"
DISAGREE = "paths disagree"
NO_CFA = "no register gives the CFA"
CFA_NOT_COMPARABLE = "the table's CFA register is one whose value is not recovered"
HIDDEN = "the register was saved in a frame that is aligned"
UNSIZED = "there is a store whose size is not known"
HANDED_BACK = "register: table says unchanged, and the function returns with another value in it"
SIGNATURE = "return address: the table is wrong about its signature"
SAYS_UNDEFINED = "the table calls a register undefined"
OUTERMOST = "the table says that this frame has no caller"


class Exact(NamedTuple):
    """Every rule of the table's row is true in the recovered state."""


class Wrong(NamedTuple):
    """A rule of the table's row is not true in the recovered state; `about` is the class of disagreement, and
    `lost` the register, if the state has its value nowhere."""

    about: str
    lost: int | None = None


Verdict = Exact | Wrong | Unknown
EXACT = Exact()
MALFORMED = Unknown("the FDE breaks the rules of its format")
"""In place of the rows of an FDE that nobody can read: that is wrong, whatever the code does."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`count` instructions from `offset` up to `end` with one verdict other than exact."""

    offset: int
    end: int
    count: int
    verdict: Wrong | Unknown
    row: Row | Unknown
    state: State | None


@dataclass(slots=True)
class Comparison:
    """Instructions by verdict, and the findings in rising order."""

    exact: int = 0
    wrong: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    @property
    def instructions(self) -> int:
        return self.exact + self.wrong.total() + self.unknown.total()

    def note(self, finding: Finding) -> None:
        self.findings.append(finding)
        if isinstance(finding.verdict, Wrong):
            self.wrong[finding.verdict.about] += finding.count
        else:
            self.unknown[finding.verdict.reason] += finding.count

    def reconsider(self, verdicts: Mapping[int, Wrong | Unknown]) -> None:
        """Give `verdicts`' verdict where the one so far is that a register's value is nowhere."""
        findings = self.findings
        self.findings, self.wrong, self.unknown = [], Counter(), Counter()
        for finding in findings:
            lost = finding.verdict.lost if isinstance(finding.verdict, Wrong) else None
            better = verdicts.get(lost) if lost is not None else None
            if better is not None and lost is not None and _fits(better, finding.row, lost):
                finding = replace(finding, verdict=better)
            self.note(finding)


class Judge:
    """Gives verdicts for one architecture, and remembers them: code has many instructions and few states."""

    def __init__(self, arch: Architecture) -> None:
        self._arch = arch
        self._registers = (*arch.callee_saved, arch.return_address)
        self._known: dict[tuple[State, Row], Verdict] = {}

    def verdict(self, state: State, row: Row | Unknown, disagreed: bool) -> Verdict:
        """What `row` is worth in `state`; `disagreed`: paths that met before have lost something."""
        if isinstance(row, Unknown):
            return self.claim(row)
        known = self._known.get((state, row))
        if known is None:
            known = self._known[state, row] = self._verdict(state, row)
        if disagreed and isinstance(known, Wrong) and known.lost is not None:
            return Unknown(DISAGREE)
        if disagreed and known == _NO_CFA:
            return Unknown(DISAGREE)
        return known

    @staticmethod
    def claim(row: Unknown) -> Wrong | Unknown:
        """What a table without a row is worth."""
        return Wrong(row.reason) if row is MALFORMED else row

    def _verdict(self, state: State, row: Row) -> Verdict:
        if isinstance(row.rule(self._arch.return_address), Undefined):
            return Unknown(OUTERMOST)
        if not state.finds_cfa(row.cfa):
            if state.row is None:
                return _NO_CFA
            value = state.registers.get(row.cfa.register)
            return Unknown(CFA_NOT_COMPARABLE) if value is None else Wrong(self._about_cfa(value, row.cfa))
        undefined = False
        for register in self._registers:
            rule = row.rule(register)
            if isinstance(rule, (SameValue, SavedAt, InRegister)):
                if not state.holds(register, rule, _key(row, register)):
                    if state.holds_signed(register, rule):
                        return Wrong(SIGNATURE)
                    lost = None if state.keeps(register) else register
                    return Wrong(self._about(register, rule, state), lost)
            else:
                undefined = True
        return Unknown(SAYS_UNDEFINED) if undefined else EXACT

    def _about_cfa(self, value: Value, rule: CfaRule) -> str:
        name = self._arch.register_names[rule.register]
        if isinstance(value, int):
            return f"CFA: another offset from {name}"
        return f"CFA: {name} is not a frame address"

    def _about(self, register: int, rule: RegisterRule, state: State) -> str:
        kind = "return address" if register == self._arch.return_address else "register"
        said = {SameValue: "unchanged", SavedAt: "saved", InRegister: "in another register"}[type(rule)]
        if not state.keeps(register):
            return f"{kind}: table says {said}, {_LOST}"
        if state.row is not None:
            ours = state.row.rule(register)
            held = {SameValue: "unchanged", SavedAt: "saved", InRegister: "in another register"}
            place = held.get(type(ours), "elsewhere")
            elsewhere = " elsewhere" if place == said else ""
            return f"{kind}: table says {said}, recovered {place}{elsewhere}"
        return f"{kind}: table says {said}, recovered elsewhere"


_LOST = "recovered nothing"
_NO_CFA = Unknown(NO_CFA)


def _key(row: Row, register: int) -> str:
    """The key that the table says `register` is signed with."""
    return row.signed.key if row.signed is not None and row.signed.register == register else ""


def _fits(better: Wrong | Unknown, row: Row | Unknown, register: int) -> bool:
    """Whether `better` may be said of what `row` says of `register`: wrong only of `same value`; unknown not where
    it is said to be saved above the function's own frame, which no function does."""
    rule = row.rule(register) if isinstance(row, Row) else None
    if isinstance(better, Wrong):
        return isinstance(rule, SameValue)
    return not (isinstance(rule, SavedAt) and rule.offset >= 0)


def pieces(flow: Flow, table: UnwindTable) -> Iterator[tuple[int, int, State | None, Row | Unknown]]:
    """The code in the largest stretches with one state and one row: (offset, end, state, row)."""
    states = flow.states
    changes = sorted({0, *states, *flow.ends, *table.offsets})
    state: State | None = None
    row: Row | Unknown = Unknown("no row")
    rows = dict(zip(table.offsets, table.rows, strict=True))
    for offset, end in zip(changes, [*changes[1:], table.size], strict=True):
        if offset >= table.size:
            break
        if offset in states:
            state = states[offset]
        elif offset in flow.ends:
            state = None
        row = rows.get(offset, row)
        if end > offset:
            yield offset, min(end, table.size), state, row


def compare(
    judge: Judge,
    flow: Flow,
    table: UnwindTable,
    starts: Sequence[int],
    unreached: Callable[[int, int], Counter[str]],
    disagreed: bool = False,
) -> Comparison:
    """The verdicts on all instructions of one function.

    `starts` are the rising offsets at which its instructions start; `unreached(offset, end)` counts, by
    reason, the instructions in code that `flow` does not reach. `disagreed`: see `Judge.verdict`; any
    disagreement in `flow` counts as well.
    """
    result = Comparison()
    disagreed = disagreed or bool(flow.disagreements)
    for offset, end, state, row in pieces(flow, table):
        if state is None:
            for reason, count in unreached(offset, end).items():
                result.note(Finding(offset, end, count, Unknown(reason), row, None))
            continue
        count = bisect_left(starts, end) - bisect_left(starts, offset)
        if not count:
            continue
        verdict = judge.verdict(state, row, disagreed)
        if isinstance(verdict, Exact):
            result.exact += count
        else:
            result.note(Finding(offset, end, count, verdict, row, state))
    return result
