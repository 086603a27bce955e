"""The JIT code on the stacks of a process that is sampled: what is known of it, for as long as that is true.

In come the JITs of the process, out come the rules of program counters in their code, for `walk`, and what runs there.
When code may have come or gone (`compare_anew`), each piece of code is compared with the process's memory before it is
believed again: its bytes name its own executor, so that another one at its place has other bytes.
"""

from bisect import bisect_right, insort
from typing import NamedTuple

from jitunwind.arch.known import decoder
from jitunwind.jits import Code
from jitunwind.jits.known import UNKNOWN_NAME, Jits
from jitunwind.jits.optional import Fallback, Position, Positions
from jitunwind.region import RegionKind
from jitunwind.rows import Row, UnwindTable
from jitunwind.stacks.moments import Moments
from jitunwind.stacks.native import NoRules, Rules, rules_of_row
from jitunwind.stacks.walk import RawFrame

_MOST_RENEWALS = 16
"""For so many renewals, code is remembered that was not met: with it, JITs as they were then."""


class JitPlace(NamedTuple):
    """A program counter in JIT code. `is_gate`: by which JIT code is entered. `position`: of a JIT beside an
    interpreter, what runs there, as far as the code alone tells."""

    name: str
    is_gate: bool
    position: Position | None = None
    file: str | None = None
    line: int | None = None


_UNKNOWN = JitPlace(UNKNOWN_NAME, False)


class _Known:
    """A piece of code, with the JITs as they were when they told of it. `met`: the number of renewals when it was last
    met."""

    def __init__(self, code: Code, jits: Jits, met: int) -> None:
        self.code, self.jits, self.met = code, jits, met
        self.places: dict[tuple[int, bool], JitPlace] = {}
        self.table: UnwindTable | None = None


class SampledCode:
    """The JIT code in `memory`. `jits`: those of the process, as they were when they were last asked for."""

    def __init__(self, memory: Moments, jits: Jits) -> None:
        self._memory, self.jits = memory, jits
        self._is_current = True
        self._starts: list[int] = []
        self._codes: dict[int, _Known] = {}
        self._checked: set[int] = set()
        self._at: dict[tuple[int, bool], _Known | None] = {}
        self._gates: dict[int, bool] = {}
        self.renewals = 0
        """How often the JITs were asked anew."""

    def compare_anew(self) -> None:
        """Code may have come or gone."""
        self._is_current = False
        self._checked.clear()
        self._at.clear()
        self._gates.clear()

    # Rules

    def rules_at(self, pc: int, at_pc: bool) -> Rules | NoRules | None:
        if self._is_of_file(pc):
            return None
        known = self._known(pc, at_pc)
        if known is None:
            unknown = self.jits.may_hold(pc) is not None
            return NoRules(f"no JIT of this process says what code there is at {pc:#x}") if unknown else None
        row = self._table(known).at_return_address(pc - known.code.start)
        return rules_of_row(row) if isinstance(row, Row) else NoRules(f"at {pc:#x}: {row.reason}")

    def caller_of_unknown(self, frame: RawFrame) -> tuple[int, int] | None:
        fallback = self.jits.telling(Fallback)
        if fallback is None or self.jits.may_hold(frame.pc) is None:
            return None
        return fallback.unwind_unknown(frame.pc, frame.registers.get)

    def _table(self, known: _Known) -> UnwindTable:
        if known.table is None:
            known.table = known.jits.recovered(known.code, decoder(self._memory.architecture))
        return known.table

    def _is_of_file(self, pc: int) -> bool:
        mapping = self._memory.mapping_of(pc)
        return mapping is not None and bool(mapping.path)

    # Code

    def _known(self, pc: int, at_pc: bool) -> _Known | None:
        """The code of a frame at `pc`; None, if nobody knows it."""
        key = pc, at_pc
        if key not in self._at:
            found = self._find(pc)
            if found is None and not at_pc:  # the call is the last of its code
                found = self._find(pc - 1)
            self._at[key] = found
        return self._at[key]

    def _find(self, pc: int) -> _Known | None:
        index = bisect_right(self._starts, pc) - 1
        known = self._codes[self._starts[index]] if index >= 0 else None
        if known is not None and pc < known.code.end:
            if self._is_unchanged(known):
                known.met = self.renewals
                return known
            self._forget(known)
        if not self._is_current:
            self._renew()
        code = self.jits.find(pc) if self.jits.may_hold(pc) is not None else None
        if code is None:
            return None
        known = _Known(code, self.jits, self.renewals)
        for other in [each for each in self._codes.values() if code.start < each.code.end]:
            if other.code.start < code.end:
                self._forget(other)
        self._codes[code.start] = known
        insort(self._starts, code.start)
        self._checked.add(code.start)
        return known

    def _forget(self, known: _Known) -> None:
        del self._codes[known.code.start]
        self._starts.remove(known.code.start)
        self._checked.discard(known.code.start)

    def _is_unchanged(self, known: _Known) -> bool:
        start = known.code.start
        if start not in self._checked:
            if self._memory.now(start, known.code.size) != known.code.data:
                return False
            self._checked.add(start)
            if known.jits is not self.jits and self.jits.find(start) == known.code:
                known.jits = self.jits  # those of before need not be kept for it
        return True

    def _renew(self) -> None:
        self._memory.renew()
        self.jits = self.jits.renewed()
        self._is_current = True
        self.renewals += 1
        for known in [each for each in self._codes.values() if self.renewals - each.met > _MOST_RENEWALS]:
            self._forget(known)

    # What runs there

    def place_at(self, pc: int, at_pc: bool) -> JitPlace | None:
        """Of a program counter in JIT code, by the code alone; None, where there is no JIT code."""
        if self._is_of_file(pc):
            return None
        known = self._known(pc, at_pc)
        if known is None:
            return _UNKNOWN if self.jits.may_hold(pc) is not None else None
        found = known.places.get((pc, at_pc))
        if found is None:
            found = known.places[pc, at_pc] = self._place(known, pc, at_pc)
        return found

    def _place(self, known: _Known, pc: int, at_pc: bool) -> JitPlace:
        jits, code = known.jits, known.code
        place = pc if at_pc else pc - 1
        pieces = jits.pieces(code)
        piece = next((piece for piece in pieces if place in piece), pieces[0])
        if piece.kind is RegionKind.SHIM:
            return JitPlace(piece.name, True)
        telling = jits.teller(code, Positions)
        if telling is not None:
            return JitPlace(piece.name, False, telling.position(code, pc, at_pc, _no_register))
        before = [line for line in jits.lines(code) if line.offset <= place - code.start]
        file, line = (before[-1].filename, before[-1].line) if before else (None, None)
        return JitPlace(piece.name, False, None, file, line)

    def is_gate(self, pc: int) -> bool:
        """Whether the code of a file by which JIT code is entered lies at `pc`."""
        if pc not in self._gates:
            self._gates[pc] = self.jits.gate_at(pc) is not None
        return self._gates[pc]


def _no_register(register: int) -> int | None:
    """Of who asks what the code alone tells."""
    return None
