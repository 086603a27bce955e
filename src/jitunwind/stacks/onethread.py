"""Threads of a live process, each stopped for a moment: for who looks at the same process again and again.

Unlike `seizing`, which stops all threads at one moment, this lets each thread go on as soon as it has been looked at.
Between two looks nothing is held, so that signals take their usual way, and another tracer can come.
"""

import contextlib
import ctypes
import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from jitunwind.stacks.ptrace import (
    DETACH,
    EVENT_STOP,
    GETREGSET,
    INTERRUPT,
    LARGEST_REGISTERS,
    NT_PRSTATUS,
    SEIZE,
    WALL,
    Vector,
    libc,
    ptrace,
)
from jitunwind.stacks.seizing import letter

_P_ALL, _WSTOPPED, _WNOWAIT = 0, 2, 0x01000000
_PID_AT = 16
"""In a siginfo_t of SIGCHLD (<bits/types/siginfo_t.h>, 64-bit)."""
_FIRST = -20
"""The priority of who traces: others wait for it."""
_GONE = -1
"""In place of what waitpid(2) says, of a thread that it knows nothing of."""
_PATIENCE_SECONDS = 2.0
"""Until a thread that is ready to run must have stopped: a busy machine has many of them."""
_ASKS_SECONDS = 0.05
"""After which it is asked whether the thread is one that may never stop."""


_raw_waitpid = libc.waitpid
_raw_waitpid.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
_waitid = libc.waitid
_waitid.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_int]


Work = Callable[[int, bytes, bool], Callable[[], None]]
"""Gets a thread's number, its note NT_PRSTATUS, and whether a signal had stopped its process: then the stop tells of
that signal (ptrace(2), "Group-stop"). Gives what is to be done as soon as the thread has been let go."""


class Refused(Exception):
    """The kernel does not let us: the thread is another tracer's, or not ours to trace."""


class ThreadStopper:
    """Stops threads one after the other. All calls come from one thread, within `ready`."""

    def __init__(self) -> None:
        self._owed: set[int] = set()
        """Threads that did not stop in time, and will: they are let go as soon as they have."""
        self.endings: dict[int, int] = {}
        """What waitpid(2) said of threads that have ended: of a child of this process nobody else can ask that now."""
        self._buffer = ctypes.create_string_buffer(LARGEST_REGISTERS)
        self._base = ctypes.addressof(self._buffer)
        self._vector = Vector(self._base, LARGEST_REGISTERS)
        self._place = ctypes.addressof(self._vector)
        self.stopped_seconds = 0.0
        """For how long threads stood still, all together."""

    @contextlib.contextmanager
    def ready(self) -> Iterator[None]:
        """While threads may be stopped: SIGALRM, which nobody else of this process uses, ends waits that take too
        long. A thread that is owed is the kernel's to let go when this process ends."""
        own = threading.get_native_id()
        priority = os.getpriority(os.PRIO_PROCESS, own)
        with contextlib.suppress(OSError):  # not everybody may: on a busy machine moments are met better
            os.setpriority(os.PRIO_PROCESS, own, _FIRST)
        before = signal.signal(signal.SIGALRM, _nothing)
        signal.siginterrupt(signal.SIGALRM, True)
        signal.setitimer(signal.ITIMER_REAL, _ASKS_SECONDS, _ASKS_SECONDS)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            os.setpriority(os.PRIO_PROCESS, own, priority)
            self.let_go_of_late()

    def with_each_stopped(self, tids: Sequence[int], work: Work) -> None:
        """Call `work` with each thread while that thread stands still, in the order in which they come to their stops.
        Not with those that have ended, or do not stop in time. Refused, if one was."""
        began, refused = time.perf_counter(), False
        pending: set[int] = set()
        self.let_go_of_late()
        for tid in tids:
            if tid in self._owed:
                continue
            if ptrace(SEIZE, tid, None, None) == 0:
                ptrace(INTERRUPT, tid, None, None)
                pending.add(tid)
            else:
                refused = refused or ctypes.get_errno() == errno.EPERM
        try:
            while pending:
                found = self._next(pending, began)
                if found is None:
                    break
                tid, status = found
                pending.discard(tid)
                if os.WIFSTOPPED(status):
                    self._look(tid, status, work)
                elif status != _GONE:
                    self.endings[tid] = status
        finally:
            self._owed |= pending
        if refused and not pending:
            raise Refused

    def _look(self, tid: int, status: int, work: Work) -> None:
        began = time.perf_counter()
        is_halted = status >> 16 == EVENT_STOP and os.WSTOPSIG(status) != signal.SIGTRAP
        number = 0 if status >> 16 == EVENT_STOP else os.WSTOPSIG(status)
        afterwards = None
        try:
            self._vector.size = LARGEST_REGISTERS
            if ptrace(GETREGSET, tid, NT_PRSTATUS, self._place) == 0:
                afterwards = work(tid, ctypes.string_at(self._base, self._vector.size), is_halted)
        finally:
            ptrace(DETACH, tid, None, number)
            self.stopped_seconds += time.perf_counter() - began
        if afterwards is not None:
            afterwards()

    def _next(self, pending: set[int], began: float) -> tuple[int, int] | None:
        """A thread that has stopped or ended, and what waitpid(2) says of it; None, if that takes too long. The wait is
        no polling: on a busy machine a thread needs this very processor to come to its stop."""
        while True:
            tid = next(iter(pending)) if len(pending) == 1 else _waiting()
            if tid:
                status = _waitpid(tid, 0 if tid in pending else os.WNOHANG)
                if status is not None and tid in pending:
                    return tid, status
                if status is None and ctypes.get_errno() == errno.ECHILD and tid in pending:
                    return tid, _GONE
            waited = time.perf_counter() - began
            if waited > _ASKS_SECONDS:
                gone = next((tid for tid in pending if letter(tid, tid) in ("", "Z", "X")), None)
                if gone is not None:
                    status = _waitpid(gone, os.WNOHANG)
                    return gone, _GONE if status is None else status
                if waited > _PATIENCE_SECONDS or all(letter(tid, tid) == "D" for tid in pending):
                    return None

    def let_go_of_late(self) -> None:
        """Let go of the threads that did not stop in time and have stopped since."""
        for tid in list(self._owed):
            with contextlib.suppress(ChildProcessError):
                got, status = os.waitpid(tid, WALL | os.WNOHANG)
                if not got:
                    continue
                if not os.WIFSTOPPED(status):
                    self.endings[tid] = status
                else:
                    number = 0 if status >> 16 == EVENT_STOP else os.WSTOPSIG(status)
                    ptrace(DETACH, tid, None, number)
            self._owed.discard(tid)


def _nothing(number: int, frame: object) -> None:
    """Of a signal that only ends a system call."""


_status = ctypes.c_int()
_status_place = ctypes.addressof(_status)
_information = ctypes.create_string_buffer(128)
_information_place = ctypes.addressof(_information)


def _waitpid(tid: int, options: int) -> int | None:
    """What waitpid(2) says, of a stop or an end; None where it says nothing, or is interrupted: os.waitpid would go on
    then."""
    return _status.value if _raw_waitpid(tid, _status_place, WALL | options) == tid else None


def _waiting() -> int:
    """One of our tracees or children that has stopped, by waitid(2), which leaves it to be waited for; 0 where that is
    interrupted. Ends are left alone: a child's is its parent's to ask for."""
    if _waitid(_P_ALL, 0, _information_place, _WSTOPPED | _WNOWAIT | WALL) < 0:
        return 0
    return int.from_bytes(_information.raw[_PID_AT : _PID_AT + 4], "little")
