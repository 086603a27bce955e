"""The sampler: in comes a live process, out comes a `Recording` of what its threads ran.

Each period of the rate has one moment, somewhere in it: a program that does the same thing in step with the rate would
else be seen at the same point each time. At a moment each thread that runs is stopped for as long as it takes to copy
its stack. No signal is sent, nothing in the process is changed.
"""

import gc
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

from jitunwind.errors import AlreadyTraced, NoSuchProcess, NotPermitted
from jitunwind.memory.live import check_threads, command_line
from jitunwind.memory.stopping import check_not_frozen
from jitunwind.profile.labels import STOPPED, WAITING
from jitunwind.profile.recording import Frame, Kind, Origin, Recording
from jitunwind.stacks.onethread import Refused, ThreadStopper
from jitunwind.stacks.sampled import Place, PlaceKind, SampledProcess, Taken
from jitunwind.stacks.snapshot import comm

UNNAMED = "[jit code]"
"""What JIT code is called of which nobody knows the function."""
_ENDED = (b"Z", b"X", b"x")
_RUNNING = b"R"
_STOPPED = (b"T", b"t")
_RENEW_SECONDS = 1.0
_STARTING_SECONDS = 5.0
"""For so long a program may be on its way to become a Python."""
_MOST_REFUSALS = 100
_MOST_WARMED = 8
_KINDS = {PlaceKind.PYTHON: Kind.PYTHON, PlaceKind.JIT: Kind.JIT, PlaceKind.MARK: Kind.WAITING}


class Wanted(NamedTuple):
    """What to record. `rate`: moments in a second. `seconds`: for how long (None: until the process ends). `idle`:
    threads that wait, too. `gil`: of those that run, only the ones that hold the interpreter's lock. `c_lines`: lines
    of C functions, and the functions inlined there."""

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
        self._present: set[int] = set()
        self._states: dict[int, bytes] = {}
        self._frames: list[tuple[Frame, ...]] = []
        origin = Origin(pid, command_line(pid), self._period, "jitunwind", began=time.time())
        self._raw = Recording(origin)
        self.counts = self._raw.counts
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
        began = renewed = time.perf_counter()
        end = None if self._wanted.seconds is None else began + self._wanted.seconds
        slot = 0
        while not is_over() and not self._ended:
            at = began + (slot + random.random()) * period
            if end is not None and at >= end:
                break
            now = time.perf_counter()
            if at > now:
                time.sleep(at - now)
                now = time.perf_counter()
            counts.moments += 1
            counts.late += now - at > period / 2
            self._moment(now - began)
            after = time.perf_counter()
            origin.seconds = after - began
            is_starting = after - began < _STARTING_SECONDS and not self._process.is_python
            if after - renewed > _RENEW_SECONDS or is_starting:
                self._process.renew()
                self._rename_threads()
                origin.command = command_line(self.pid) or origin.command  # it may run another program now
                renewed = after
            following = int((time.perf_counter() - began) / period)
            counts.missed += max(following - slot - 1, 0)
            counts.moments += max(following - slot - 1, 0)
            slot = max(following, slot + 1)

    def _warm_up(self) -> None:
        """What the first look takes, to read tables and code, is no part of the recording."""
        with suppress(Refused):
            self._process.sample(self._to_sample()[:_MOST_WARMED])

    def _moment(self, at: float) -> None:
        tids = self._to_sample()
        if self._wanted.gil:
            holders = self._process.holders()
            tids = [tid for tid in tids if holders is None or tid in holders]
        if not tids:
            return
        try:
            taken = self._process.sample(tids)
        except Refused:
            self._refuse()
            taken = []
        late = {*tids} - {tid for tid, _ in taken}
        self.counts.lost += sum(_state(self.pid, tid) not in (b"", *_ENDED) for tid in late)
        self.counts.stopped = self._stopper.stopped_seconds
        for tid, each in taken:
            self._add(at, tid, each)

    def _add(self, at: float, tid: int, taken: Taken) -> None:
        counts = self.counts
        if tid not in self._threads:
            self._threads[tid] = self._raw.thread(tid, comm(self.pid, tid))
        if taken.reason:
            counts.cut += 1
            counts.reasons[taken.reason] += 1
        counts.unnamed += taken.is_unnamed
        self._raw.add(at, self._threads[tid], self._raw.stack((*taken.places, *self._mark(tid))))

    def _rename_threads(self) -> None:
        """A thread may get its name only after it has begun."""
        for tid, thread in self._threads.items():
            self._raw.rename(thread, comm(self.pid, tid))

    def _mark(self, tid: int) -> tuple[int, ...]:
        """The mark of a thread that did not run before it was stopped for the sample."""
        state = self._states.get(tid, _RUNNING)
        if state == _RUNNING:
            return ()
        return (self._process.mark(STOPPED if state in _STOPPED else WAITING),)

    def _to_sample(self) -> list[int]:
        """The threads to look at now."""
        try:
            present = {int(name) for name in os.listdir(f"/proc/{self.pid}/task")}
        except OSError:
            present = set()
        for tid in self._present - present:
            self._threads.pop(tid, None)  # another one may get its number
        self._present = present
        states = self._states = {tid: _state(self.pid, tid) for tid in present}
        alive = [tid for tid in sorted(present) if states[tid] not in (b"", *_ENDED)]
        self._ended = not alive
        return alive if self._wanted.idle else [tid for tid in alive if states[tid] == _RUNNING]

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
        if self._states and all(state in _STOPPED for state in self._states.values()):
            origin.notes.append(
                f"all threads of process {self.pid} are stopped, by a signal or a debugger; kill -CONT lets them go on"
            )
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


def _state(pid: int, tid: int) -> bytes:
    """The letter of a thread's state (proc(5)); empty, where there is no such thread."""
    try:
        descriptor = os.open(f"/proc/{pid}/task/{tid}/stat", os.O_RDONLY)
        try:
            text = os.read(descriptor, 256)
        finally:
            os.close(descriptor)
    except OSError:
        return b""
    at = text.rfind(b")") + 2
    return text[at : at + 1]
