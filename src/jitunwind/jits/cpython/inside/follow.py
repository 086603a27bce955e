"""Publishing the JIT code of the CPython that this runs in, as it comes and goes.

The agent notes where code has come or is to go, and has `Follower._work` called in a thread of its own soon
afterwards. The thread is there only while there is something to do.
"""

import _thread
import atexit
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from typing import TYPE_CHECKING

from jitunwind.agent.library import CODE_CAME, GDB, JITDUMP, LIBGCC, LIBUNWIND, PERF_MAP, loaded_agent
from jitunwind.errors import AgentFailed, UnsupportedVersion

if TYPE_CHECKING:
    from jitunwind.jits.cpython.inside.describing import Described, Describer

_CONSUMERS = (GDB, LIBGCC, LIBUNWIND)
PERF = {"jitdump": JITDUMP, "map": PERF_MAP}
"""What can be written for perf: the consumers."""
_FILES = {JITDUMP: "/tmp/jit-{}.dump", PERF_MAP: "/tmp/perf-{}.map"}
"""What perf calls their files (agent/perf_file.c), by the process's number in its own PID namespace."""
_STDERR = 2
_LEAST_AT_ONCE, _MOST_AT_ONCE = 4, 64
_AT_ONCE_SECONDS = 0.03
"""After so much work what is ready is published, the rest later: new code should not wait for a tenth of a second."""
_SHORT_TURN_SECONDS = 0.0005
_LOOK_SECONDS = 1.0
_END_SECONDS = 2.0
_TURN_SECONDS = 0.05
FLUSH_SECONDS = 1.0
_FILES_SECONDS = 10.0
"""As long as a process may take at its end, to complete what perf reads."""
_PAGE = 4096
"""Of the smallest size that there is."""
_WORDS_OF_NAMELESS = 4
"""Behind the addresses in a line of /proc/PID/maps that has no path (proc(5))."""
_WAIT = "regions wait to be described"
_UNKNOWN = "pages of executable memory are not described"
_OFF = "publishing is off"


class Follower:
    """Follows the interpreter of one process; in the child of a fork it goes on."""

    def __init__(self) -> None:
        self._agent = loaded_agent()
        self._lock = _thread.RLock()
        """Held while something is looked at and published. A handler of a signal and a finalizer may run in the thread
        that has it: they get it as well, but leave alone what is half done."""
        self._asking = 0
        """How many threads want the lock, which the worker lets go of then."""
        self._worker_thread = 0
        """The thread that works, while it does."""
        self._waiting: dict[int, int] = {}
        """Code that has come and has not been looked at: start to size, the oldest first."""
        self._at_once = _MOST_AT_ONCE
        """Regions that are looked at together: not many more than can be described in the time for that."""
        self._describer: Describer | None = None
        self._files: tuple[str, ...] = ()
        """The consumers that write files for perf."""
        self._untold: set[int] = set()
        """Where code starts that was published before they were asked for."""
        self._has_own_files = True
        """False in the child of a fork, until it has its own."""
        self._said: str | None = None
        """What went wrong with the files, as it stood on stderr."""
        self._failed: dict[int, int] = {}
        """Code that is there and could not be described or published: start to size."""
        self._errors: dict[str, int] = {}
        """What went wrong, and how often."""

    def start(self) -> None:
        """Publish what there is, then all that comes. AgentFailed, where the agent cannot learn what comes."""
        if not self._agent.follow("PyObject_Call"):
            raise AgentFailed("the calls by which this Python makes code executable cannot be followed")
        self._agent.set_worker(self._work)
        self._agent.resume(False)
        if _executable_memory() and self._acquire(FLUSH_SECONDS):
            try:
                self._note_all()
            finally:
                self._release()
            self.flush(FLUSH_SECONDS)

    def files(self) -> list[str]:
        """The paths of the files for perf."""
        return [_FILES[consumer].format(os.getpid()) for consumer in self._files]

    def write_for_perf(self, consumer: str) -> None:
        """Write a file for perf, too, of the code that there is and of all that comes. AgentFailed, where it cannot be
        made, or nobody could be asked: publishing goes on without."""
        if consumer in self._files:
            return
        self._agent.publish([], (consumer,))
        if not self._acquire(FLUSH_SECONDS):
            raise AgentFailed("JIT code is being published just now: try again")
        try:
            self._files = (*self._files, consumer)
            self._describer = None  # it may have to make more of each region
            self._look()
            before = set(self._waiting)
            self._note_all()
            self._untold.update(self._waiting.keys() - before)
        finally:
            self._release()
        self.flush(FLUSH_SECONDS)

    def flush(self, seconds: float) -> int:
        """Publish the code that there is now, for `seconds` and the rest of the region that is then in the making.
        How many regions are left: the worker publishes them. What comes meanwhile is not counted."""
        until = time.monotonic() + seconds
        if not self._acquire(seconds):
            return self._most_waiting()
        try:
            self._begin_files_in_child()
            self._look()
            left = set(self._waiting)
            while next(iter(self._waiting), None) in left and time.monotonic() < until:
                self._publish_some(until)
                self._look()
            return len(left.intersection(self._waiting))
        except Exception as error:  # as `problems` then says
            self._count(error)
            return max(self._most_waiting(), 1)
        finally:
            self._release()

    def complete_files(self) -> None:
        """At the end of the process. One line on stderr says what is left."""
        left = self.flush(_FILES_SECONDS) if self._files else 0
        if left:
            self._say(f"JIT code of {left} regions is not written for perf: the process ends before that")

    def problems(self) -> dict[str, int]:
        """What went wrong so far, and what is executable now and is not published, each with how often."""
        found = dict(self._errors)
        if not self._acquire(_LOOK_SECONDS):
            return {**found, _WAIT: max(self._most_waiting(), 1)}
        try:
            pages = set(_pages(_executable_memory()))
            self._look()  # behind that: of all these pages it knows by now what they hold
            waiting = {start: size for start, size in self._waiting.items() if not self._agent.knows(start)}
            explained = set(_pages([*waiting.items(), *self._failed.items()]))
            pages.intersection_update(_pages(_executable_memory()))  # some may have gone since
            unknown = [page for page in pages - explained if not self._agent.knows(page)]
        finally:
            self._release()
        counts = {_WAIT: len(waiting), _UNKNOWN: len(unknown)}
        problem = self._agent.problem(self._files)
        if problem is not None:
            counts[problem] = 1
        return {**found, **{what: count for what, count in counts.items() if count}}

    def _acquire(self, seconds: float) -> bool:
        """Whether the lock could be had in that time. Never in a thread that has it: there something is half done."""
        if self._is_mine():
            return False
        self._asking += 1
        try:
            return self._lock.acquire(timeout=min(max(seconds, 0), _thread.TIMEOUT_MAX))
        finally:
            self._asking -= 1

    def _is_mine(self) -> bool:
        """Whether this thread has the lock."""
        return bool(self._lock._is_owned())  # type: ignore[attr-defined]  # threading.Condition asks so, too

    def _release(self) -> None:
        """After `_acquire`."""
        self._lock.release()
        if self._waiting:
            self._agent.call()

    def _most_waiting(self) -> int:
        """How many regions wait, and events that tell of others perhaps; without the lock."""
        return len(self._waiting) + self._agent.events()

    def end(self, withdraws: bool) -> None:
        """Follow no more; what is published stays so until it is freed, or is withdrawn now.

        In the worker's own thread, where a finalizer may ask for it, another thread does it later."""
        if self._worker_thread == _thread.get_ident():
            _thread.start_new_thread(self.end, (withdraws,))
            return
        self._agent.pause()
        # At the end of a process too: not without a bound, whatever has become of the lock.
        has_lock = self._lock.acquire(timeout=_END_SECONDS)
        try:
            self._agent.set_worker(None)
            if withdraws:
                self._waiting.clear()
                self._failed.clear()
                for start, size in self._describe().everything():
                    self._agent.withdraw_range(start, size)
        finally:
            if has_lock:
                self._lock.release()

    def pause(self) -> None:
        """Before a fork: no thread of ours, and nothing half done but by this thread itself. All or nothing: a handler
        of a signal may raise here."""
        if self._worker_thread == _thread.get_ident():
            return
        was_mine = self._is_mine()
        try:
            self._agent.pause()
            self._lock.acquire()
        except BaseException:
            if self._is_mine() and not was_mine:
                self._lock.release()
            self._agent.resume(bool(self._waiting))
            raise

    def resume(self, in_child: bool) -> None:
        """After a fork."""
        if in_child:
            self._describer = None
            self._said = None
            self._has_own_files = not self._files
        if self._worker_thread != _thread.get_ident():
            self._lock.release()
            self._agent.resume(bool(self._waiting) or not self._has_own_files)

    def _begin_files_in_child(self) -> None:
        """Have the child of a fork write files of its own, with the code that it has from its parent."""
        if not self._has_own_files:
            self._has_own_files = True
            try:
                self._agent.publish([], self._files)
            except AgentFailed as error:
                self._say(str(error))

    def _say(self, problem: str | None) -> None:
        """One line on stderr, where there is a problem with the files that has not been said."""
        if problem != self._said and problem is not None:
            self._said = problem
            with suppress(OSError):
                os.write(_STDERR, f"jitunwind: {problem}\n".encode())

    def _work(self) -> None:
        """What the agent calls, in its thread, when there is something to do."""
        while not self._lock.acquire(timeout=_TURN_SECONDS):
            if self._agent.is_paused():  # by the thread that has the lock, perhaps
                return
        self._worker_thread = _thread.get_ident()
        try:
            self._begin_files_in_child()
            self._look()
            while self._waiting and not self._agent.is_paused() and not self._asking:
                self._publish_some(math.inf)
                self._look()  # what has gone meanwhile needs not be published any more
        except Exception as error:  # there is nobody to tell, and the program must not suffer
            self._count(error)
        finally:
            self._worker_thread = 0
            self._lock.release()

    def _count(self, error: Exception) -> None:
        problem = f"{type(error).__name__}: {error}"
        self._errors[problem] = self._errors.get(problem, 0) + 1

    def _fail(self, start: int, error: Exception) -> None:
        self._failed[start] = self._waiting.get(start, 0)
        self._count(error)

    def _look(self) -> None:
        """Note what has come, and let go of what is to go."""
        for event in self._agent.take():
            if event.kind == CODE_CAME:
                self._waiting[event.start] = event.size
            else:
                if self._waiting.pop(event.start, None) is not None and self._files:
                    self._write_before_it_goes(event.start, event.size)
                self._failed.pop(event.start, None)
                self._untold.discard(event.start)
                self._agent.unmap(event.start, event.size)
        if self._agent.lost():
            self._note_all()

    def _write_before_it_goes(self, start: int, size: int) -> None:
        """Tell perf's files of code that has not had its turn: it may have run, and perf's samples of it come later.
        Where nobody knows any more what it was, it goes untold."""
        if self._agent.knows(start):
            return
        for _, outcome in self._describe().described([(start, size)]):
            if not isinstance(outcome, Exception):
                with suppress(AgentFailed):
                    self._agent.publish([outcome.region], self._files)

    def _note_all(self) -> None:
        for start, size in self._describe().everything():
            self._agent.remember(start)
            self._waiting.setdefault(start, size)

    def _describe(self) -> "Describer":
        """Made, and what it needs imported, when the first code has come: most processes make none."""
        if self._describer is None:
            with _short_turns():
                from jitunwind.jits.cpython.inside.describing import Describer

                self._describer = Describer(JITDUMP in self._files)
        return self._describer

    def _publish_some(self, until: float) -> None:
        """Publish what waits, or as much of it as can be made ready in some time, before time.monotonic() is
        `until`; one region at least."""
        some = []
        for start, size in list(islice(self._waiting.items(), self._at_once)):
            if self._agent.knows(start) and start not in self._untold:
                del self._waiting[start]
            else:
                some.append((start, size))
        until = min(until, time.monotonic() + _AT_ONCE_SECONDS)
        ready: list[Described] = []
        done: list[int] = []
        for start, outcome in self._describe().described(some):
            done.append(start)
            if isinstance(outcome, Exception):
                self._fail(start, outcome)
            else:
                self._failed.pop(start, None)
                ready.append(outcome)
            if time.monotonic() > until:
                break
        self._at_once = min(2 * len(done) + _LEAST_AT_ONCE, _MOST_AT_ONCE)
        try:
            self._publish(ready)
        except Exception:  # for one of them: somebody else has published what overlaps it, say
            for each in ready:
                try:
                    self._publish([each])
                except Exception as error:
                    self._fail(each.region.start, error)
        for start in done:  # only now: who asks what waits shall not be told that nothing does
            self._waiting.pop(start, None)
            self._untold.discard(start)
        if self._files:
            self._say(self._agent.problem(self._files))

    def _publish(self, ready: "list[Described]") -> None:
        known = {each.region.start for each in ready if self._agent.knows(each.region.start)}
        if known:
            self._agent.tell([each.region for each in ready if each.region.start in known], self._files)
        new = [each for each in ready if each.region.start not in known]
        regions = [each.region for each in new]
        consumers = _CONSUMERS + self._files
        offsets = self._describe().own_registration
        if offsets is None:
            self._agent.publish(regions, consumers)
        else:
            executors = [(each.executor, each.region.start) for each in new]
            code, registration = offsets
            self._agent.replace(regions, consumers, executors, (code, *registration))


@contextmanager
def _short_turns() -> Iterator[None]:
    """Have threads that compute let others have the GIL sooner than after the usual 5 ms, for as long as this lasts.

    An import lets go of the GIL some ten times for each module, and waits for it each time: a quarter of a second
    where the program computes, in place of a twentieth. What the program sets meanwhile stays."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(before, _SHORT_TURN_SECONDS))
    short = sys.getswitchinterval()
    try:
        yield
    finally:
        if sys.getswitchinterval() == short:
            sys.setswitchinterval(before)


def _executable_memory() -> list[tuple[int, int]]:
    """Start and size of each mapping that may be JIT code: executable, and of no file."""
    found = []
    with open("/proc/self/maps", "rb") as file:
        for line in file:
            addresses, *what = line.split()
            if b"x" in what[0] and what[3] == b"0" and len(what) == _WORDS_OF_NAMELESS:
                start, end = (int(address, 16) for address in addresses.split(b"-"))
                found.append((start, end - start))
    return found


def _pages(places: Iterable[tuple[int, int]]) -> Iterator[int]:
    """Where the pages begin of `places`, each a start and a size."""
    for start, size in places:
        yield from range(start, start + size, _PAGE)


_follower: Follower | None = None
_switch = _thread.RLock()
"""Held while publishing is switched on or off."""
_is_guarded = False


def enable(perf: str | None = None) -> None:
    """Publish, from now on, all JIT code of the CPython that this runs in, and withdraw it when it is freed.

    Nothing is done where it has no JIT, and in other interpreters than the main one, whose JIT is off. GDB, LLDB,
    libgcc (C++ exceptions, `backtrace`), nongnu libunwind and LLVM's then know it. Enabled twice is enabled once.
    `perf`: "jitdump" writes /tmp/jit-PID.dump besides, "map" /tmp/perf-PID.map, of all code, also where publishing is
    on already. ValueError for another one; AgentFailed, where the file cannot be written: the rest is published.
    UnsupportedVersion for a CPython whose JIT is not known; AgentMissing, if the agent was not built;
    AgentFailed, if it cannot work in this process.
    """
    if perf is not None and perf not in PERF:
        raise ValueError(f"perf is one of {', '.join(PERF)}; not {perf!r}")
    if not hasattr(sys, "_jit"):
        from jitunwind.jits.cpython.versions import in_words

        raise UnsupportedVersion(
            f"CPython {sys.version_info[0]}.{sys.version_info[1]} is not known here",
            f"jitunwind publishes the JIT code of CPython {in_words('and')}",
        )
    if not sys._jit.is_available() or not loaded_agent().in_main_interpreter():
        return
    with _switch:
        _enable()
        if perf is not None and _follower is not None:
            _follower.write_for_perf(PERF[perf])


def files_for_perf() -> list[str]:
    """The paths of the files that are written for perf."""
    return _follower.files() if _follower is not None else []


def _enable() -> None:
    global _follower, _is_guarded
    if _follower is not None:
        return
    follower = Follower()
    follower.start()
    _follower = follower
    if not _is_guarded:
        _is_guarded = True
        os.register_at_fork(
            before=_before_fork,
            after_in_parent=lambda: _after_fork(False),
            after_in_child=lambda: _after_fork(True),
        )
        atexit.register(_at_exit)


def is_enabled() -> bool:
    """Whether this process publishes its JIT code: `enable` was called, and not `disable`."""
    return _follower is not None


def disable() -> None:
    """Withdraw what `enable` has published, and publish no more. CPython 3.15's own entries do not come back."""
    global _follower
    with _switch:
        follower, _follower = _follower, None
        if follower is not None:
            follower.end(withdraws=True)


def flush(timeout: float = FLUSH_SECONDS) -> int:
    """Publish the JIT code that there is now, if publishing is enabled, and return how many regions of it are left.

    It takes `timeout` seconds at most, and as long as the region takes that is being described then (a few
    milliseconds, and some 50 the first time). What is left is published later, as all new code is; 0 says that all
    that there was is published. Code that other threads make meanwhile is neither waited for nor counted.
    """
    return _follower.flush(float(timeout)) if _follower is not None else 0


def problems() -> dict[str, int]:
    """What keeps JIT code of this process from being described, and what went wrong before, each with how often.

    Empty only where every page of executable memory that is no file's belongs to a published region. Else it says
    how many regions wait to be described (`flush` does it), how many pages are unknown (no executor owns them: they may
    be another JIT's), what errors there were, or that publishing is off in a process that has such memory.
    """
    if _follower is not None:
        return _follower.problems()
    return {_OFF: 1} if hasattr(sys, "_jit") and sys._jit.is_available() and _executable_memory() else {}


_paused: dict[int, Follower] = {}
"""By thread, the follower that has paused because this thread forks: it may be disabled meanwhile."""


def _before_fork() -> None:
    follower = _follower
    if follower is not None:
        follower.pause()
        _paused[_thread.get_ident()] = follower


def _after_fork(in_child: bool) -> None:
    global _switch
    if in_child:
        _switch = _thread.RLock()  # the thread that had it may not be there
    follower = _paused.pop(_thread.get_ident(), None)
    if follower is not None:
        follower.resume(in_child)


def _at_exit() -> None:
    """Code that is freed from now on is withdrawn by the agent alone. What perf reads is complete before."""
    if _follower is not None:
        _follower.complete_files()
        _follower.end(withdraws=False)
