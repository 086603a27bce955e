"""One thread of a live process, stopped for a moment: for who looks at the same process again and again.

Unlike `seizing`, which stops all threads at one moment, this stops a single one, for as short as it can: the others
run on. Between two stops nothing is held, so that signals take their usual way, and another tracer can come.
"""

import contextlib
import ctypes
import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

from jitunwind.stacks.seizing import letter

_DETACH, _GETREGSET, _SEIZE, _INTERRUPT = 17, 0x4204, 0x4206, 0x4207
_NT_PRSTATUS = 1
_WALL = 0x40000000
_EVENT_STOP = 128
_LARGEST_REGISTERS = 1024
_FIRST = -20
"""The priority of who traces: others wait for it."""
_PATIENCE_SECONDS = 2.0
"""Until a thread that is ready to run must have stopped: a busy machine has many of them."""
_ASKS_SECONDS = 0.05
"""After which it is asked whether the thread is one that may never stop."""


_libc = ctypes.CDLL(None, use_errno=True)
_ptrace = _libc.ptrace
_ptrace.restype = ctypes.c_long
_ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_raw_waitpid = _libc.waitpid
_raw_waitpid.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int]


class _Vector(ctypes.Structure):
    """struct iovec."""

    _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]


class Refused(Exception):
    """The kernel does not let us: the thread is another tracer's, or not ours to trace."""


class ThreadStopper:
    """Stops threads one after the other. All calls come from one thread, within `ready`."""

    def __init__(self) -> None:
        self._owed: set[int] = set()
        """Threads that did not stop in time, and will: they are let go as soon as they have."""
        self._buffer = ctypes.create_string_buffer(_LARGEST_REGISTERS)
        self._vector = _Vector(ctypes.addressof(self._buffer), _LARGEST_REGISTERS)
        self._place = ctypes.addressof(self._vector)
        self.stopped_seconds = 0.0
        """For how long the last thread stood still."""

    @contextlib.contextmanager
    def ready(self) -> Iterator[None]:
        """While threads may be stopped: SIGALRM, which nobody else of this process uses, ends waits that take too
        long. A thread that is owed is the kernel's to let go when this process ends."""
        with contextlib.suppress(OSError):  # not everybody may: on a busy machine moments are met better
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _FIRST)
        before = signal.signal(signal.SIGALRM, _nothing)
        signal.siginterrupt(signal.SIGALRM, True)
        signal.setitimer(signal.ITIMER_REAL, _ASKS_SECONDS, _ASKS_SECONDS)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            self.let_go_of_late()

    def with_stopped(self, tid: int, work: Callable[[bytes], None]) -> bool:
        """Call `work` with the note NT_PRSTATUS of a thread while that stands still. False, if it has ended, or did not
        stop in time. Refused."""
        if tid in self._owed:
            self.let_go_of_late()
            return False
        if _ptrace(_SEIZE, tid, None, None) < 0:
            if ctypes.get_errno() == errno.EPERM:
                raise Refused
            return False
        began = time.perf_counter()
        _ptrace(_INTERRUPT, tid, None, None)
        status = self._wait(tid, began)
        if status is None or not os.WIFSTOPPED(status):
            return False
        number = 0 if status >> 16 == _EVENT_STOP else os.WSTOPSIG(status)
        try:
            self._vector.size = _LARGEST_REGISTERS
            if _ptrace(_GETREGSET, tid, _NT_PRSTATUS, self._place) < 0:
                return False
            work(self._buffer.raw[: self._vector.size])
            return True
        finally:
            _ptrace(_DETACH, tid, None, number)
            self.stopped_seconds = time.perf_counter() - began

    def _wait(self, tid: int, began: float) -> int | None:
        """What waitpid(2) says of the thread when it has stopped; None, if it has gone, or takes too long. The wait is
        no polling: on a busy machine the thread needs this very processor to come to its stop."""
        while True:
            status = _waitpid(tid)
            if status is not None:
                return status
            error = ctypes.get_errno()
            if error != errno.EINTR:
                return None
            waited = time.perf_counter() - began
            if waited > _PATIENCE_SECONDS or (waited > _ASKS_SECONDS and letter(tid, tid) == "D"):
                self._owed.add(tid)
                return None

    def let_go_of_late(self) -> None:
        """Let go of the threads that did not stop in time and have stopped since."""
        for tid in list(self._owed):
            with contextlib.suppress(ChildProcessError):
                got, status = os.waitpid(tid, _WALL | os.WNOHANG)
                if not got:
                    continue
                if os.WIFSTOPPED(status):
                    number = 0 if status >> 16 == _EVENT_STOP else os.WSTOPSIG(status)
                    _ptrace(_DETACH, tid, None, number)
            self._owed.discard(tid)


def _nothing(number: int, frame: object) -> None:
    """Of a signal that only ends a system call."""


_status = ctypes.c_int()
_status_place = ctypes.addressof(_status)


def _waitpid(tid: int) -> int | None:
    """os.waitpid would go on when it is interrupted."""
    return _status.value if _raw_waitpid(tid, _status_place, _WALL) == tid else None
