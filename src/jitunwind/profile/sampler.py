"""The sampler: in comes a live process, out comes a `Recording` of what its threads ran.

Each period of the rate has one moment, somewhere in it: a program that does the same thing in step with the rate would
else be seen at the same point each time. At a moment each thread that runs is stopped for as long as it takes to copy
its stack. No signal is sent, nothing in the process is changed.
"""

import gc
import math
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

from jitunwind.errors import AlreadyTraced, NoSuchProcess, NotPermitted
from jitunwind.memory.live import check_threads, command_line, process_has_ended
from jitunwind.memory.stopping import check_not_frozen
from jitunwind.profile.labels import QUEUED, STOPPED, WAITING
from jitunwind.profile.recording import Frame, Kind, Origin, Recording
from jitunwind.stacks.onethread import Refused, ThreadStopper
from jitunwind.stacks.sampled import Place, PlaceKind, SampledProcess, Taken
from jitunwind.stacks.seizing import letter, letter_and_count, thread_ids
from jitunwind.stacks.snapshot import comm

UNNAMED = "[jit code]"
"""What JIT code is called of which nobody knows the function."""
_ENDED = ("Z", "X", "x")
_RUNNING = "R"
_HALTED = ("T", "t")
_RENEW_SECONDS = 1.0
_STARTING_SECONDS = 5.0
"""For so long a program may be on its way to become a Python."""
_MOST_REFUSALS = 100
_MOST_WARMED = 8
_LONGEST_PAUSE_SECONDS = 0.1
"""After which a pause is over if the recording is."""
_ADDRESS = re.compile(r"\b0x[0-9a-f]+")
_KINDS = {PlaceKind.PYTHON: Kind.PYTHON, PlaceKind.JIT: Kind.JIT, PlaceKind.MARK: Kind.WAITING}


class Wanted(NamedTuple):
    """What to record. `rate`: moments in a second. `seconds`: for how long (None: until the process ends). `idle`:
    threads that are not on a processor, too, each with a mark that says why. `gil`: of those that run, only the ones
    that hold the interpreter's lock. `c_lines`: lines of C functions, and the functions inlined there."""

    rate: float = 100.0
    seconds: float | None = None
    idle: bool = False
    gil: bool = False
    debug_dirs: tuple[str, ...] = ()
    c_lines: bool = False


class Sampler:
    """Records process `pid`. NoSuchProcess, NotPermitted, AlreadyTraced, CannotStop."""

    def __init__(self, pid: int, wanted: Wanted) -> None:
        check_threads(pid)
        check_not_frozen(pid)
        self.pid, self._wanted = pid, wanted
        self._period = 1 / wanted.rate
        self._stopper = ThreadStopper()
        self._process = SampledProcess(pid, self._stopper, wanted.debug_dirs, wanted.c_lines)
        self._threads: dict[int, int] = {}
        self._present: list[int] = []
        self._frames: list[tuple[Frame, ...]] = []
        origin = Origin(pid, command_line(pid), self._period, "jitunwind", began=time.time())
        self._raw = Recording(origin)
        self.counts = self._raw.counts
        self._reasons: dict[str, str] = {}
        """Why stacks are not whole: the first of those that differ by addresses only."""
        self._refusals = 0
        self._ended = False

    def __len__(self) -> int:
        """How many samples there are so far."""
        return len(self._raw)

    @property
    def origin(self) -> Origin:
        return self._raw.origin

    @property
    def ending(self) -> int | None:
        """What waitpid(2) said of the process, if it has said that to the sampler: a child ends only once."""
        return self._stopper.endings.get(self.pid)

    def run(self, is_over: Callable[[], bool]) -> None:
        """Sample until the time is over, the process has ended, or `is_over`, which is asked before each moment."""
        was_enabled = gc.isenabled()
        gc.disable()  # a collection takes longer than a stop
        try:
            with self._stopper.ready():
                self._run(is_over)
        finally:
            if was_enabled:
                gc.enable()
            self._ask_interpreter()
            self._process.close()

    def _run(self, is_over: Callable[[], bool]) -> None:
        self._warm_up()
        counts, period, origin = self.counts, self._period, self._raw.origin
        counts.halted = 0
        began = renewed = started = time.perf_counter()
        end = math.inf if self._wanted.seconds is None else began + self._wanted.seconds
        slot, programs = 0, self._process.programs
        while not is_over() and not self._ended:
            at = began + (slot + random.random()) * period
            if not self._pause(min(at, end), is_over) or at >= end:
                break
            now = time.perf_counter()
            counts.moments += 1
            counts.late += now - at > period / 2
            self._moment(now - began, now)
            after = time.perf_counter()
            origin.seconds = after - began
            if self._process.programs != programs:
                programs, started = self._process.programs, after
            is_starting = after - started < _STARTING_SECONDS and not self._process.is_python
            if after - renewed > _RENEW_SECONDS or is_starting:
                self._process.renew()
                self._rename_threads()
                origin.command = command_line(self.pid) or origin.command  # it may run another program now
                renewed = after
            following = int((time.perf_counter() - began) / period)
            counts.missed += max(following - slot - 1, 0)
            counts.moments += max(following - slot - 1, 0)
            slot = max(following, slot + 1)
        origin.seconds = time.perf_counter() - began

    def _pause(self, until: float, is_over: Callable[[], bool]) -> bool:
        """Wait until then; False, if the recording is over before."""
        while (left := until - time.perf_counter()) > 0:
            time.sleep(min(left, _LONGEST_PAUSE_SECONDS))
            if left > _LONGEST_PAUSE_SECONDS and (is_over() or process_has_ended(self.pid)):
                return False
        return True

    def _warm_up(self) -> None:
        """What the first look takes, to read tables and code, is no part of the recording."""
        with suppress(Refused):
            self._process.sample([*self._to_sample()][:_MOST_WARMED], time.perf_counter())

    def _moment(self, at: float, now: float) -> None:
        """`at`: seconds since the recording began; `now`: the same by time.perf_counter."""
        states = self._to_sample()
        tids = [*states]
        if self._wanted.gil:
            holders = self._process.holders()
            tids = [tid for tid in tids if holders is None or tid in holders]
        if not tids:
            return
        try:
            taken = self._process.sample(tids, now)
        except Refused:
            self._refuse()
            taken = []
        late = {*tids} - {tid for tid, _ in taken}
        self.counts.lost += sum(letter(self.pid, tid) not in ("", *_ENDED) for tid in late)
        self.counts.stopped = self._stopper.stopped_seconds
        for tid, each in taken:
            self.counts.queued += each.is_queued
            mark = _mark(each, states[tid])
            if self._wanted.idle or not mark:
                self._add(at, tid, each, mark)

    def _add(self, at: float, tid: int, taken: Taken, doing: str) -> None:
        """`doing`: the mark of a thread that does not run; else empty."""
        counts = self.counts
        if tid not in self._threads:
            self._threads[tid] = self._raw.thread(tid, comm(self.pid, tid))
        if taken.reason:
            counts.cut += 1
            kind = _ADDRESS.sub("", taken.reason)
            counts.reasons[self._reasons.setdefault(kind, taken.reason)] += 1
        counts.unnamed += taken.is_unnamed
        places = (*taken.places, self._process.mark(doing)) if doing else taken.places
        self._raw.add(at, self._threads[tid], self._raw.stack(places))

    def _rename_threads(self) -> None:
        """A thread may get its name only after it has begun."""
        for tid, thread in self._threads.items():
            self._raw.rename(thread, comm(self.pid, tid))

    def _to_sample(self) -> dict[int, str]:
        """The threads to look at now, with their states."""
        states, count = self._states()
        if not count or count != len(self._present) or "" in states.values():
            self._look_for_threads()
            states, _ = self._states()
        alive = {tid: state for tid, state in states.items() if state not in ("", *_ENDED)}
        self._ended = not alive
        self.counts.halted += bool(alive) and all(state in _HALTED for state in alive.values())
        return {tid: state for tid, state in alive.items() if self._wanted.idle or state == _RUNNING}

    def _states(self) -> tuple[dict[int, str], int]:
        """Of the threads that are known; and how many the process has."""
        found = {tid: letter_and_count(self.pid, tid) for tid in self._present}
        return {tid: state for tid, (state, _) in found.items()}, max(
            (n for _, n in found.values()), default=0
        )

    def _look_for_threads(self) -> None:
        present = thread_ids(self.pid)
        for tid in {*self._present}.difference(present):
            self._threads.pop(tid, None)  # another one may get its number
        self._present = present

    def _refuse(self) -> None:
        """Somebody else may trace the process for a while. Where it was never ours, that is an error."""
        self._refusals += 1
        if len(self._raw) or self._refusals < _MOST_REFUSALS:
            return
        check_threads(self.pid)  # it has a tracer, or is not ours
        raise NotPermitted(f"process {self.pid} may not be traced by this user")

    def _ask_interpreter(self) -> None:
        origin, process = self._raw.origin, self._process
        with suppress(NoSuchProcess, NotPermitted, AlreadyTraced):
            origin.python = process.python
            origin.jit = process.jit_was_on
        origin.command = origin.command or command_line(self.pid)

    # What was recorded

    def recording(self) -> Recording:
        """What was recorded so far, with the names of native functions: the first time takes as long as it takes to
        read their files' symbols."""
        return self._raw.translated(self._named())

    def since(self, number: int) -> Recording:
        """The same of the samples from that number on."""
        return self._raw.since(number).translated(self._named())

    def _named(self) -> list[tuple[Frame, ...]]:
        known = len(self._frames)
        self._frames += [tuple(self._frames_of(place)) for place in self._process.places[known:]]
        return self._frames

    def _frames_of(self, place: Place) -> Iterator[Frame]:
        """The outermost first."""
        if place.kind is not PlaceKind.NATIVE:
            name = place.function or UNNAMED
            yield Frame(_KINDS[place.kind], name, place.path, place.line, "", bool(place.function))
            return
        for each in self._process.named(place):
            yield Frame(Kind.NATIVE, each.function, each.file, each.line, place.path or "", each.is_named)


def _mark(taken: Taken, state: str) -> str:
    """Why a thread that was in that state does not run; empty, if it does."""
    if taken.is_halted or state in _HALTED:
        return STOPPED
    return QUEUED if taken.is_queued else "" if state == _RUNNING else WAITING
