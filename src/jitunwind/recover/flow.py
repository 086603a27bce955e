"""Machine code to states: control flow, and the forward data flow over it.

In come a function's bytes, a decoder and the state at each entry; out comes, for every reachable
instruction, the one state in which every path arrives there, or the two paths that disagree. It knows no
opcode, no object format and no process.

The rules of a meet: a register or slot that two paths leave with different values is not known. Where that
loses the CFA, or every place of a register that the convention keeps, the paths disagree.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterable, Mapping
from heapq import heappop, heappush
from operator import attrgetter
from typing import NamedTuple

from jitunwind.arch import Architecture
from jitunwind.arch.calls import Callee
from jitunwind.arch.effects import Control, Decoder, Step
from jitunwind.recover.state import State, States
from jitunwind.rows import SAME_VALUE

try:
    from jitunwind.recover.straight import skip
except (ImportError, SystemError):  # it was not built, or see agent/python.h
    skip = None  # type: ignore[assignment]

CalleeOf = Callable[[bytes, int, int], Callee | None]
"""`arch.ARCH.calls.callee_of`: (code, offset of a call, offset behind it) -> which function it calls."""
IndirectTargets = Callable[[int], Iterable[int]]
"""The targets, as offsets in the code, of the indirect jump at an offset; none for one that leaves."""


class Exit(NamedTuple):
    """Where control leaves the code: a return (`target` None, `returns`), an indirect jump (`target` None) or
    a jump out of the code. `at_entry_state`: the stack pointer and the preserved registers are then as they were
    at entry, as a return or a tail call has to leave them."""

    target: int | None
    returns: bool
    at_entry_state: bool


class Disagreement(NamedTuple):
    """Two paths arrive at `target` with states that have no row in common.

    `sources` are the instructions from which they arrive, `calls` the last call in the straight line of
    code before each: if it never returns, that path does not exist. `before`: those right before `target`.
    """

    target: int
    sources: tuple[int, int]
    calls: tuple[int | None, int | None]
    about: str

    @property
    def before(self) -> tuple[int, ...]:
        paths = zip(self.sources, self.calls, strict=True)
        return tuple(call for source, call in paths if call is not None and call == source < self.target)

    def __str__(self) -> str:
        one, other = self.sources
        return (
            f"the paths over +{one:#x} and +{other:#x} meet at +{self.target:#x} and disagree on {self.about}"
        )


class NoReturn:
    """The calls in a piece of code that never return: those at the offsets `calls`, and all calls of `callees`.

    With `callee_of`, the analysis finds such callees. Paths through real code agree on the stack wherever they meet.
    If a path that comes straight from a call disagrees with another one, then that call does not return, and no
    call of the same function does. A debug build's assertions look like this: `jne next; push %rax; ...;
    call *slot(%rip)`, and `next` right behind.
    """

    def __init__(
        self, calls: Collection[int] = (), code: bytes = b"", callee_of: CalleeOf | None = None
    ) -> None:
        self._calls, self._code, self._callee_of = calls, code, callee_of
        self.callees: set[Callee] = set()

    @property
    def is_empty(self) -> bool:
        """Whether every call returns, as far as is known."""
        return not (self._calls or self.callees)

    def has(self, call: int, after: int) -> bool:
        """Whether the call from the offset `call` to `after` is one of them."""
        if call in self._calls:
            return True
        return self._callee_of is not None and self._callee_of(self._code, call, after) in self.callees

    def learn(self, paths: "Disagreement") -> bool:
        """Whether `paths` show another one."""
        if self._callee_of is None:
            return False
        found = (self._callee_of(self._code, call, paths.target) for call in paths.before)
        new = {each for each in found if each is not None} - self.callees
        self.callees |= new
        return bool(new)


class _TooLongError(Exception):
    """The analysis has taken more steps than any real code needs."""


class _LearntError(Exception):
    """A call that was followed never returns: what has been found so far is not true."""


class Flow:
    """`states` by the offset from which each holds; `ends`: offsets behind instructions that do not fall
    through; `disagreements` by the offset where the paths meet; `exits` by the leaving instruction; `preserved`:
    the registers whose values at entry every entry promises to keep; `called`: functions in this code that were
    left out; `problem`: why nothing is known of any instruction, or empty."""

    def __init__(self, preserved: tuple[int, ...] = ()) -> None:
        self.states: dict[int, State] = {}
        self.ends: set[int] = set()
        self.disagreements: dict[int, Disagreement] = {}
        self.exits: dict[int, Exit] = {}
        self.preserved = preserved
        self.called: set[int] = set()
        self.problem = ""

    def add(self, other: "Flow") -> None:
        """Take in the flow of other instructions, of which none disagree."""
        self.states.update(other.states)
        self.ends.update(other.ends)
        self.exits.update(other.exits)


def leaves(offset: int) -> Iterable[int]:
    """`IndirectTargets` of code whose indirect jumps all leave it."""
    return ()


def analyze(
    arch: Architecture,
    states: States,
    code: bytes,
    decode: Decoder,
    entries: Mapping[int, State],
    tracked: Collection[int],
    indirect: IndirectTargets = leaves,
    no_return: NoReturn | None = None,
    callees: Mapping[int, State] | None = None,
    enters_calls: bool = True,
    most_steps: float = math.inf,
    fixed: Collection[int] = (),
) -> Flow:
    """Follow `code` from each entry (offset -> state there) to the end of every path.

    `tracked` are the registers whose values matter; `no_return` the calls that never return: the
    analysis adds those that it finds; `callees` functions in this code that are only called (offset -> state there),
    not followed. A call to anywhere else in the code makes its target an entry of a function of the platform's
    convention, which is left out unless the flow `enters_calls`. What takes more than `most_steps` is given up: the
    flow has nothing but a `problem` then. `fixed` are entries at which every path that exists is in the state given
    there, whatever state it seems to arrive in.
    """
    known = {**entries, **(callees or {})}
    sweeps = _Sweeps(code, decode, tracked, known)
    return _Analysis(
        states,
        arch,
        sweeps,
        len(code),
        entries,
        known,
        indirect,
        NoReturn() if no_return is None else no_return,
        enters_calls,
        most_steps,
        fixed,
    ).run()


class _Sweep(NamedTuple):
    """One linear decoding. `leaders` are the starts that control also reaches by another way than from the
    instruction before, `marks` the same, rising and closed by `_NONE`. `continues_at`: where it would come to what an
    earlier sweep has; None where it ends with an exit or the code."""

    starts: list[int]
    steps: list[Step]
    continues_at: int | None
    leaders: set[int]
    marks: list[int]

    def begins_at(self, offset: int) -> bool:
        """Whether an instruction of this sweep starts at `offset`."""
        index = bisect_left(self.starts, offset)
        return index < len(self.starts) and self.starts[index] == offset


_NONE = (1 << 63) - 1
"""An offset behind all."""
_target_of = attrgetter("target")


class _Sweeps:
    """The code, decoded by as many linear sweeps as it takes to meet every reached instruction's start."""

    def __init__(
        self,
        code: bytes,
        decode: Decoder,
        tracked: Collection[int],
        functions: Iterable[int],
    ) -> None:
        self._code, self._decode, self._tracked = code, decode, tracked
        self._also_leaders = set(functions)
        self._sweeps: list[_Sweep] = []
        self.outdated = False
        """Whether a leader was found that blocks may have run past already."""

    def from_offset(self, offset: int) -> _Sweep:
        """The sweep in which an instruction starts at `offset`."""
        for sweep in self._sweeps:
            if sweep.begins_at(offset):
                if offset not in sweep.leaders and offset not in self._also_leaders:
                    self._also_leaders.add(offset)
                    self.outdated = True
                return sweep
        return self._new(offset)

    def refresh(self) -> None:
        """Take the leaders that have been found since into every sweep."""
        self._sweeps = [self._laid(*old[:3]) for old in self._sweeps]
        self.outdated = False

    def _new(self, offset: int) -> _Sweep:
        """Decode from `offset` to where an earlier sweep has the same instructions."""
        steps, starts = self._decode(self._code, offset, self._tracked)
        if not starts:  # a disassembler may refuse
            starts = [offset]
        ends = steps and steps[-1].offset == starts[-1]
        end = steps[-1].next if ends else len(self._code)
        continues_at = None
        known_leaders = len(self._also_leaders)
        near = [old for old in self._sweeps if old.starts[0] < end and offset <= old.starts[-1]]
        for old in near:
            again = next((start for start in starts if old.begins_at(start)), None)
            if again is not None:
                starts = starts[: bisect_left(starts, again)]
                steps = [step for step in steps if step.offset < again]
                continues_at = end = again
        for old in near:
            # Where sweeps overlap, an offset may be inside an instruction of one: note all states there.
            shared = old.starts[bisect_left(old.starts, offset) : bisect_right(old.starts, end)]
            if shared:
                self._also_leaders.update(shared, starts)
        self.outdated = self.outdated or len(self._also_leaders) > known_leaders
        self._also_leaders.add(offset)
        self._sweeps.append(self._laid(starts, steps, continues_at))
        return self._sweeps[-1]

    def _laid(self, starts: list[int], steps: list[Step], continues_at: int | None) -> _Sweep:
        leaders = {*map(_target_of, steps), *self._also_leaders}
        leaders.intersection_update(starts)  # that has no None
        return _Sweep(starts, steps, continues_at, leaders, [*sorted(leaders), _NONE])


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
        functions: Mapping[int, State],
        indirect: IndirectTargets,
        no_return: NoReturn,
        enters_calls: bool,
        most_steps: float,
        fixed: Collection[int],
    ) -> None:
        self.make, self.arch, self.sweeps, self.size = states, arch, sweeps, size
        self.indirect, self.no_return, self.enters_calls = indirect, no_return, enters_calls
        self.called = states.entry(arch.platform)
        self.flow = Flow()
        self.arrivals: dict[int, State] = {}
        self.sources: dict[int, tuple[int, int | None]] = {}
        self.done: dict[int, State] = {}
        self.at_entry: dict[State, bool] = {}
        self.pending: list[int] = []
        self.functions = functions
        self.preserved = [
            register
            for register in (*arch.callee_saved, arch.return_address)
            if all(state.keeps(register) for state in entries.values())
        ]
        self.entries = entries
        self.left = self.most_steps = most_steps
        self.fixed = fixed
        # What `skip` cannot reach otherwise.
        self.constant = (Exit, _NEXT, _BRANCH, _CALL, Control.JUMP, Control.RETURN, "after", "after_call")

    def run(self) -> Flow:
        while True:
            try:
                self._run()
            except _LearntError:
                continue
            except _TooLongError:
                self.flow = Flow()
                self.flow.problem = f"recovery takes more than {self.most_steps:,} steps here"
                return self.flow
            if not self.sweeps.outdated:
                return self.flow
            self.sweeps.refresh()

    def _run(self) -> None:
        self.flow = Flow(preserved=tuple(self.preserved))
        self.arrivals.clear()
        self.sources.clear()
        self.done.clear()
        self.pending.clear()
        for offset, state in self.entries.items():
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
        if target in self.fixed:
            return
        both = self.make.meet(known, state)
        if target not in self.flow.disagreements:
            about = self._lost(known, state, both)
            if about:
                first, first_call = self.sources[target]
                paths = Disagreement(target, (first, source), (first_call, call), about)
                if self.no_return.learn(paths):
                    raise _LearntError
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
        that state, it goes on at the next place where control has arrived meanwhile.

        Where nothing is to be decided, `skip` (straight.c) takes the same steps, if it was built."""
        entered = self.arrivals[start]
        if self.done.get(start) is entered:
            return
        make, arrivals, states = self.make, self.arrivals, self.flow.states
        self.done[start] = states[start] = entered
        state: State | None = entered
        sweep = self.sweeps.from_offset(start)
        steps, leaders, marks = sweep.steps, sweep.leaders, sweep.marks
        index, mark = bisect_left(steps, (start,)), bisect_right(marks, start)
        self.left -= len(steps) - index
        if self.left < 0:
            raise _TooLongError
        call: int | None = None
        previous = start
        noted = (arrivals, self.sources, states, self.done, self.flow.ends, self.flow.exits, self.at_entry)
        constant = (steps, marks, leaders, *noted, *self.constant, self.no_return.is_empty)
        while True:
            if skip is not None:
                index, mark, state, previous, call = skip(constant, index, mark, state, previous, call)
            if index == len(steps):
                break
            offset, after, effects, control, target = steps[index]
            index += 1
            while marks[mark] <= offset:
                state = self._join(marks[mark], state, previous, call)
                mark += 1
                call = None
            if state is None:
                continue
            previous = offset
            following = state.after.get(effects) or make.after(state, effects)
            if control is _NEXT:
                pass
            elif control is _BRANCH and target is not None:
                if target not in arrivals and offset < target and target in leaders:
                    arrivals[target] = following  # this run comes there
                    self.sources[target] = (offset, call)
                elif arrivals.get(target) is not following:
                    self._go(target, following, offset, call)
            elif control is _CALL:
                if not self.no_return.is_empty and self.no_return.has(offset, after):
                    self.flow.ends.add(after)
                    state = None
                    continue
                if target is not None and 0 <= target < self.size and target not in self.functions:
                    if self.enters_calls:
                        self.arrive(target, self.called, offset, None)
                    else:
                        self.flow.called.add(target)
                call = offset
                following = following.after_call or make.after_call(following)
                called = None if target is None else self.functions.get(target)
                if called is not None:
                    following = make.after_call_to(following, called)
            else:
                self.flow.ends.add(after)
                self._leave(offset, control, target, following, call)
                state = None
                continue
            if following is not state or after in states:
                state = states[after] = following
        while marks[mark] != _NONE:
            state = self._join(marks[mark], state, previous, call)
            mark += 1
            call = None
        if state is not None and sweep.continues_at is not None:
            self.arrive(sweep.continues_at, state, previous, call)
        elif state is not None:
            self.flow.exits[previous] = Exit(self.size, returns=False, at_entry_state=False)

    def _join(self, leader: int, state: State | None, previous: int, call: int | None) -> State | None:
        """The state at `leader`, where a run arrives in `state` (None: it does not); None, if there is nothing
        to be done from there."""
        if state is not None and leader not in self.arrivals:
            self.arrivals[leader] = state
            self.sources[leader] = (previous, call)
        elif state is not None:
            self.arrive(leader, state, previous, call)
        state = self.arrivals.get(leader)
        if state is None:
            return None
        self.flow.states[leader] = state  # the step before has noted its own
        if self.done.get(leader) is state:
            return None
        self.done[leader] = state
        return state

    def _go(self, target: int, state: State, source: int, call: int | None) -> None:
        if 0 <= target < self.size:
            self.arrive(target, state, source, call)
        else:
            self._exit(source, target, False, state)

    def _leave(
        self,
        source: int,
        control: Control,
        target: int | None,
        state: State,
        call: int | None,
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
        """Whether the stack pointer and what the entries preserved are where they were at entry."""
        return state.registers.get(self.arch.stack_pointer) == -self.arch.cfa_at_entry_offset and all(
            state.holds(register, SAME_VALUE)
            for register in self.preserved
            if register != self.arch.return_address or self.arch.return_register is not None
        )
