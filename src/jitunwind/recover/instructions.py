"""The instructions of a piece of JIT code: where each starts, where control goes from it, and which of them the
recovered flow reaches. The witnesses that run nothing, and what says how much they have covered, ask."""

from bisect import bisect_right
from collections.abc import Mapping
from functools import cached_property
from itertools import pairwise

from jitunwind.arch import Architecture
from jitunwind.arch.effects import NO_EFFECTS, Control, Decoder, Step
from jitunwind.recover.flow import Flow
from jitunwind.recover.state import State
from jitunwind.recover.table import flow_of, table_of
from jitunwind.rows import Row, Unknown


class Instructions:
    """Those of `code`, entered at each offset of `entries` in the state of its row."""

    def __init__(self, arch: Architecture, decode: Decoder, code: bytes, entries: Mapping[int, Row]) -> None:
        self._arch, self._decode, self._code, self._entries = arch, decode, code, entries
        self._steps: dict[int, Step] = {}

    @cached_property
    def flow(self) -> Flow:
        return flow_of(self._arch, self._code, self._decode, self._entries)

    @cached_property
    def reachable(self) -> dict[int, str]:
        """The offsets of all that the flow reaches, rising; each with the reason why recovery has no row there, or
        nothing."""
        places = Places(self.flow)
        for offset in (*self._entries, *self.flow.states):
            self.step(offset)
        table = table_of(len(self._code), self.flow)
        found = {}
        for offset in sorted(self._steps):
            if places.at(offset) is not None:
                row = table.at(offset)
                found[offset] = row.reason if isinstance(row, Unknown) else ""
        return found

    def step(self, offset: int) -> Step:
        """The instruction at `offset`."""
        if offset not in self._steps:
            self._sweep(offset)
        return self._steps[offset]

    def _sweep(self, offset: int) -> None:
        steps, starts = self._decode(self._code, offset, (self._arch.stack_pointer,))
        known = {step.offset: step for step in steps}
        end = known[starts[-1]].next if starts and starts[-1] in known else len(self._code)
        for start, following in pairwise([*starts, end]):
            plain = Step(start, following, NO_EFFECTS)
            self._steps.setdefault(start, known.get(start, plain))
        self._steps.setdefault(offset, Step(offset, offset, NO_EFFECTS, Control.HALT))

    def call_of(self, target: int | None) -> Step | None:
        """The first call of `target` in a straight run from the start (None: an indirect one)."""
        self.step(0)
        calls = (self._steps[at] for at in sorted(self._steps) if self._steps[at].control is Control.CALL)
        return next((step for step in calls if step.target == target), None)


class Places:
    """The states of a flow by any offset."""

    def __init__(self, flow: Flow) -> None:
        self._offsets = sorted({*flow.states, *flow.ends})
        self._states = [flow.states.get(offset) for offset in self._offsets]

    def at(self, offset: int) -> State | None:
        """The state at `offset`; None where control does not come."""
        index = bisect_right(self._offsets, offset) - 1
        return self._states[index] if index >= 0 else None
