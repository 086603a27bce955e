"""Machine code to states: control flow, and the forward data flow over it.

In come a function's bytes, a decoder and the state at each entry; out comes, for every reachable
instruction, the one state in which every path arrives there, or the two paths that disagree. It knows no
opcode, no object format and no process.

The rules of a meet: a register or slot that two paths leave with different values is not known. Where that
loses the CFA, or every place of a register that the convention keeps, the paths disagree.
"""

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush
from operator import itemgetter
from typing import NamedTuple

from jitunwind.arch import Architecture
from jitunwind.arch.effects import NO_EFFECTS, Control, Decoded, Step
from jitunwind.recover.state import State, States
from jitunwind.rows import SAME_VALUE

Decoder = Callable[[bytes, int, Collection[int]], Decoded]
"""(code, offset, followed registers) -> what `arch.ARCH.effects.decode` returns."""

IndirectTargets = Callable[[int], Iterable[int]]
"""The targets, as offsets in the code, of the indirect jump at an offset; none for one that leaves."""


class Exit(NamedTuple):
    """Where control leaves the code: a return (`target` None, `returns`), an indirect jump (`target` None) or
    a jump out of the code. `at_entry_state`: the stack pointer and the kept registers are then as they were
    at entry, as a return or a tail call has to leave them."""

    target: int | None
    returns: bool
    at_entry_state: bool


@dataclass(frozen=True, slots=True)
class Disagreement:
    """Two paths arrive at `target` with states that have no row in common.

    `sources` are the instructions from which they arrive, `calls` the last call in the straight line of
    code before each: if it never returns, that path does not exist.
    """

    target: int
    sources: tuple[int, int]
    calls: tuple[int | None, int | None]
    about: str

    def __str__(self) -> str:
        one, other = self.sources
        return (
            f"the paths over +{one:#x} and +{other:#x} meet at +{self.target:#x} and disagree on {self.about}"
        )


@dataclass(slots=True)
class Flow:
    """`states` by the offset from which each holds; `ends`: offsets behind instructions that do not fall
    through; `disagreements` by the offset where the paths meet; `exits` by the leaving instruction; `kept`:
    the registers whose values at entry every entry promises to keep."""

    states: dict[int, State] = field(default_factory=dict)
    ends: set[int] = field(default_factory=set)
    disagreements: dict[int, Disagreement] = field(default_factory=dict)
    exits: dict[int, Exit] = field(default_factory=dict)
    kept: tuple[int, ...] = ()


def leaves(offset: int) -> Iterable[int]:
    """`IndirectTargets` of code whose indirect jumps all leave it."""
    return ()


def analyze(
    arch: Architecture,
    states: States,
    code: bytes,
    decode: Decoder,
    entries: Mapping[int, State],
    followed: Collection[int],
    indirect: IndirectTargets = leaves,
    never_return: Collection[int] = (),
) -> Flow:
    """Follow `code` from each entry (offset -> state there) to the end of every path.

    `followed` are the registers whose values matter; `never_return` the offsets of calls that do not come
    back. A call into the code itself makes its target an entry of a function of the platform's convention.
    """
    sweeps = _Sweeps(code, decode, followed, entries)
    return _Analysis(states, arch, sweeps, len(code), entries, indirect, frozenset(never_return)).run()


class _Sweep(NamedTuple):
    """One linear decoding. `leaders` are the starts that control also reaches by another way than from the
    instruction before; each is the offset of a step."""

    starts: frozenset[int]
    steps: list[Step]
    offsets: list[int]
    leaders: frozenset[int]


class _Sweeps:
    """The code, decoded by as many linear sweeps as it takes to meet every reached instruction's start."""

    def __init__(
        self, code: bytes, decode: Decoder, followed: Collection[int], entries: Iterable[int]
    ) -> None:
        self._code, self._decode, self._followed = code, decode, followed
        self._also_leaders = set(entries)
        self._decoded: list[tuple[list[int], frozenset[int], list[Step]]] = []
        self._sweeps: list[_Sweep] = []
        self.outdated = False
        """Whether a leader was found that blocks may have run past already."""

    def from_offset(self, offset: int) -> tuple[list[Step], int, frozenset[int]]:
        """The sweep in which an instruction starts at `offset`: its steps, the index of the first from there,
        and its leaders."""
        for sweep in self._sweeps:
            if offset in sweep.starts:
                if offset not in sweep.leaders and offset not in self._also_leaders:
                    self._also_leaders.add(offset)
                    self.outdated = True
                break
        else:
            sweep = self._new(offset)
        return sweep.steps, bisect_left(sweep.offsets, offset), sweep.leaders

    def refresh(self) -> None:
        """Take the leaders that have been found since into every sweep."""
        self._sweeps = [self._laid(starts, steps) for _, starts, steps in self._decoded]
        self.outdated = False

    def _new(self, offset: int) -> _Sweep:
        """Decode from `offset` to where an earlier sweep has the same instructions."""
        steps, starts = self._decode(self._code, offset, self._followed)
        if not starts:  # a disassembler may refuse
            starts = [offset]
        known_leaders = len(self._also_leaders)
        ends = steps and starts and steps[-1].offset == starts[-1]
        end = steps[-1].next if ends else len(self._code)
        for old, known, _ in self._decoded:
            if old and old[0] < end and offset <= old[-1]:
                again = next((start for start in starts if start in known), None)
                if again is not None:
                    starts = starts[: bisect_left(starts, again) + 1]
                    steps = [step for step in steps if step.offset < again]
                    end = again
        for old, _, _ in self._decoded:
            # Where sweeps overlap, an offset may be inside an instruction of one: note all states there.
            shared = old[bisect_left(old, offset) : bisect_left(old, end) + 1]
            if shared and old[0] < end:
                self._also_leaders.update(shared, starts)
        self.outdated = self.outdated or len(self._also_leaders) > known_leaders
        self._also_leaders.add(offset)
        self._decoded.append((starts, frozenset(starts), steps))
        self._sweeps.append(self._laid(*self._decoded[-1][1:]))
        return self._sweeps[-1]

    def _laid(self, starts: frozenset[int], steps: list[Step]) -> _Sweep:
        targets = {step.target for step in steps if step.target is not None}
        leaders = starts & (targets | self._also_leaders)
        missing = leaders.difference([step.offset for step in steps])
        extra = [Step(leader, leader, NO_EFFECTS) for leader in missing]
        steps = sorted([*steps, *extra], key=itemgetter(0))
        return _Sweep(starts, steps, [step.offset for step in steps], leaders)


# Members of an Enum are slow to look up where it counts.
_NEXT, _BRANCH, _CALL = Control.NEXT, Control.BRANCH, Control.CALL


class _Analysis:
    def __init__(
        self,
        states: States,
        arch: Architecture,
        sweeps: _Sweeps,
        size: int,
        entries: Mapping[int, State],
        indirect: IndirectTargets,
        never_return: frozenset[int],
    ) -> None:
        self.make, self.arch, self.sweeps, self.size = states, arch, sweeps, size
        self.indirect, self.never_return = indirect, never_return
        self.called = states.entry(arch.platform)
        self.flow = Flow()
        self.arrivals: dict[int, State] = {}
        self.sources: dict[int, tuple[int, int | None]] = {}
        self.done: dict[int, State] = {}
        self.at_entry: dict[State, bool] = {}
        self.pending: list[int] = []
        self.entries = frozenset(entries)
        self.kept = [
            register
            for register in (*arch.callee_saved, arch.return_address)
            if all(state.keeps(register) for state in entries.values())
        ]
        self.entry_states = entries

    def run(self) -> Flow:
        self._run()
        while self.sweeps.outdated:
            self.sweeps.refresh()
            self._run()
        return self.flow

    def _run(self) -> None:
        self.flow = Flow(kept=tuple(self.kept))
        self.arrivals.clear()
        self.sources.clear()
        self.done.clear()
        for offset, state in self.entry_states.items():
            if 0 <= offset < self.size:
                self.arrive(offset, state, offset, None)
        while self.pending:
            self._follow(heappop(self.pending))

    def arrive(self, target: int, state: State, source: int, call: int | None) -> None:
        """Control reaches `target` from the instruction at `source` in `state`."""
        known = self.arrivals.get(target)
        if known is state:
            return
        if known is None:
            self.arrivals[target] = state
            self.sources[target] = (source, call)
            heappush(self.pending, target)
            return
        both = self.make.meet(known, state)
        if target not in self.flow.disagreements:
            about = self._lost(known, state, both)
            if about:
                first, first_call = self.sources[target]
                paths = Disagreement(target, (first, source), (first_call, call), about)
                self.flow.disagreements[target] = paths
        if both is not known:
            self.arrivals[target] = both
            heappush(self.pending, target)

    def _lost(self, one: State, other: State, both: State) -> str:
        """What two arriving states have each, and their meet no more."""
        if one.row and other.row and not both.row:
            sp = self.arch.stack_pointer
            return f"the CFA (stack pointer {one.place(sp)} and {other.place(sp)})"
        for register in (*self.arch.callee_saved, self.arch.return_address):
            if one.keeps(register) and other.keeps(register) and not both.keeps(register):
                return f"where {self.arch.register_names[register]} is"
        return ""

    def _follow(self, start: int) -> None:
        """Run from `start` through the code in its order, once: behind an exit, and behind what is done in
        that state, it goes on at the next place where control has arrived meanwhile."""
        make, arrivals, done, states = self.make, self.arrivals, self.done, self.flow.states
        entered = arrivals[start]
        if done.get(start) is entered:
            return
        done[start] = states[start] = entered
        state: State | None = entered
        steps, index, leaders = self.sweeps.from_offset(start)
        last = steps[-1].offset if steps else start
        call: int | None = None
        previous = start
        for offset, after, effects, control, target in steps[index:]:
            if offset in leaders and offset != start:
                if state is not None:
                    self.arrive(offset, state, previous, call)
                state = arrivals.get(offset)
                if state is not None:
                    states[offset] = state  # the step before has noted its own
                if offset == last:  # another sweep may go on from here
                    return
                if done.get(offset) is state:
                    state = None
                elif state is not None:
                    done[offset] = state
                    call = None
            if state is None:
                continue
            previous = offset
            following = state.after.get(effects) or make.after(state, effects)
            if control is _NEXT:
                pass
            elif control is _BRANCH and target is not None:
                if arrivals.get(target) is not following:
                    self._go(target, following, offset, call)
            elif control is _CALL:
                if offset in self.never_return:
                    self.flow.ends.add(after)
                    state = None
                    continue
                if target is not None and 0 <= target < self.size and target not in self.entries:
                    self.arrive(target, self.called, offset, None)
                call = offset
                following = following.after_call or make.after_call(following)
                called = None if target is None else self.entry_states.get(target)
                if called is not None:
                    following = make.after_call_to(following, called)
            else:
                self.flow.ends.add(after)
                self._leave(offset, control, target, following, call)
                state = None
                continue
            if following is not state or after in states:
                state = states[after] = following
        if state is not None:
            self.flow.exits[previous] = Exit(self.size, returns=False, at_entry_state=False)

    def _go(self, target: int, state: State, source: int, call: int | None) -> None:
        if 0 <= target < self.size:
            self.arrive(target, state, source, call)
        else:
            self._exit(source, target, False, state)

    def _leave(
        self, source: int, control: Control, target: int | None, state: State, call: int | None
    ) -> None:
        if control is Control.RETURN:
            self._exit(source, None, True, state)
        elif control is Control.JUMP and target is not None:
            self._go(target, state, source, call)
        elif control is Control.JUMP:
            targets = list(self.indirect(source))
            for each in targets:
                self._go(each, state, source, call)
            if not targets:
                self._exit(source, None, False, state)

    def _exit(self, source: int, target: int | None, returns: bool, state: State) -> None:
        at_entry = self.at_entry.get(state)
        if at_entry is None:
            at_entry = self.at_entry[state] = self._is_as_at_entry(state)
        self.flow.exits[source] = Exit(target, returns, at_entry)

    def _is_as_at_entry(self, state: State) -> bool:
        """Whether the stack pointer and what the entries kept are where they were at entry."""
        return state.registers.get(self.arch.stack_pointer) == -self.arch.entry_cfa and all(
            state.holds(register, SAME_VALUE)
            for register in self.kept
            if register != self.arch.return_address
        )
