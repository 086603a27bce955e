"""Stopping a live process for a moment: all of its threads stand still while a function runs, and go on then.

PTRACE_SEIZE and PTRACE_INTERRUPT (ptrace(2)) send no signal. The kernel lets go of what a tracer holds when the tracer
ends, however it ends. The tracer is a thread of its own, which ends with the stop: so nothing is held for longer,
not even a thread that could not stop in time.
"""

import _thread
import contextlib
import ctypes
import errno
import gc
import os
import time
from collections.abc import Callable, Sequence

from jitunwind.errors import AlreadyTraced, NoSuchProcess
from jitunwind.memory.live import not_permitted
from jitunwind.memory.procfiles import text_of
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

_PATIENCE_SECONDS = 2.0
"""Until a thread that is ready to run must have stopped: a machine may have many of them."""
_PATIENCE_WAITING_SECONDS = 0.02
"""The same for threads in an uninterruptible wait, while all others stand still."""
_POLLS_AT_ONCE = 20
_POLL_SECONDS, _LONGEST_POLL_SECONDS = 0.00005, 0.002
_PART = 0.1
"""Of the time that was waited already: so much more is waited until the next look. A thread that waits for a processor
needs it more than this one."""
_MOST_ROUNDS = 1000
_LONGEST_STATE = 512
"""Bytes of /proc/PID/task/TID/stat that have the thread's number, its name, its state and what follows up to the number
of threads."""
_COUNT = 17
"""Of the fields that begin with the state, the number of threads (proc(5), num_threads)."""
_FIRST = -20
"""The nice value of the thread that traces, where it may not have more."""


class Stop:
    """What came of a stop: `registers` of each thread that stood still (the note NT_PRSTATUS, raw bytes), why others
    did not (`missing`), and for how long the process stood still, in seconds."""

    def __init__(self) -> None:
        self.registers: dict[int, bytes] = {}
        self.missing: dict[int, str] = {}
        self.seconds = 0.0


def with_threads_stopped(pid: int, work: Callable[[Stop], None]) -> Stop:
    """Call `work` while every thread of process `pid` stands still. Each goes on as it was, whatever happens.

    `work` runs in another thread. NoSuchProcess, AlreadyTraced, NotPermitted; and what `work` raises.
    """
    stop, errors, ended = Stop(), list[BaseException](), list[bool]()
    done = _thread.allocate_lock()
    done.acquire()
    collects = gc.isenabled()

    def trace() -> None:
        try:
            _come_first(_thread.get_native_id())
            gc.disable()  # a collection in a large program takes longer than a stop
            _Tracer(pid, stop).run(work)
        except BaseException as error:  # handed on
            errors.append(error)
        finally:
            if collects:
                gc.enable()
            ended.append(True)
            done.release()

    _thread.start_new_thread(trace, ())
    try:
        done.acquire()
    except BaseException:  # the thread would not end its work in a Python that ends
        if not ended:  # else the lock may be ours already
            done.acquire(timeout=2 * _PATIENCE_SECONDS)
        raise
    if errors:
        raise errors[0]
    return stop


def _come_first(tid: int) -> None:
    """Have the kernel prefer a thread, as far as this user may (sched(7)): while it waits for a processor, the process
    stands still. It sleeps whenever it waits for others, and its time is short."""
    try:
        os.sched_setscheduler(tid, os.SCHED_RR, os.sched_param(os.sched_get_priority_min(os.SCHED_RR)))
    except OSError:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, tid, _FIRST)


class _Tracer:
    """The thread that traces."""

    def __init__(self, pid: int, stop: Stop) -> None:
        self._pid = pid
        self._stop = stop
        self._seized: set[int] = set()
        self._signals: dict[int, int] = {}
        """By a thread that stands still: the signal that it was about to get, or 0."""
        self._begin = 0.0
        """The last moment at which none stood still, as far as is known."""
        self._buffer = ctypes.create_string_buffer(LARGEST_REGISTERS)

    def run(self, work: Callable[[Stop], None]) -> None:
        new = self._seize_new()
        self._begin = time.perf_counter()
        try:
            for _ in range(_MOST_ROUNDS):
                self._interrupt(new)
                new = self._seize_new()  # threads that a thread has started before it stopped
                if not new:
                    break
            self._read_registers()
            if self._stop.registers:
                work(self._stop)
        finally:
            for tid, number in self._signals.items():
                ptrace(DETACH, tid, None, number)
            self._stop.seconds = time.perf_counter() - self._begin

    def _seize_new(self) -> list[int]:
        """Seize the threads that are not seized yet; those that it got."""
        new, refused = [], 0
        for tid in thread_ids(self._pid):
            if tid in self._seized or tid in self._stop.missing:
                continue
            if ptrace(SEIZE, tid, None, None) < 0:
                if ctypes.get_errno() == errno.EPERM and not _has_ended(self._pid, tid):
                    refused = tid
            else:
                self._seized.add(tid)
                new.append(tid)
        if refused:
            self._refuse(refused)
        if not self._seized:
            raise NoSuchProcess(f"process {self._pid} has ended")
        return new

    def _refuse(self, tid: int) -> None:
        tracer = next(
            (line[10:].strip() for line in _status(self._pid, tid) if line.startswith("TracerPid")), "0"
        )
        if tracer not in ("0", str(os.getpid())):
            raise AlreadyTraced(f"process {self._pid} is being traced by process {tracer}")
        raise not_permitted(f"process {self._pid} may not be traced by this user")

    def _interrupt(self, tids: list[int]) -> None:
        """Have threads stop, and wait for them. Those that run come first. One of them may have to wait for a processor
        before it can stop, and none of the others shall stand still for so long. Those that sleep stop at once."""
        running = [tid for tid in tids if letter(self._pid, tid) == "R"]
        for some in (running, [tid for tid in tids if tid not in running]):
            self._interrupt_at_once(some)

    def _interrupt_at_once(self, tids: list[int]) -> None:
        for tid in tids:
            ptrace(INTERRUPT, tid, None, None)
        begin, polls, left = time.perf_counter(), 0, tids
        while True:
            now = time.perf_counter()
            left = [tid for tid in left if not self._has_stopped(tid)]
            if not self._signals:
                self._begin = now
            if not left:
                return
            polls += 1
            if polls > _POLLS_AT_ONCE:
                waited = time.perf_counter() - begin
                time.sleep(min(max(waited * _PART, _POLL_SECONDS), _LONGEST_POLL_SECONDS))
                left = self._waited_for(left, waited)

    def _waited_for(self, tids: list[int], seconds: float) -> list[int]:
        """Those of the threads for which it is worth to wait longer than that."""
        if seconds > _PATIENCE_WAITING_SECONDS:
            for tid in tids:
                if letter(self._pid, tid) == "D":
                    self._stop.missing[tid] = _IN_D
                elif seconds > _PATIENCE_SECONDS:
                    self._stop.missing[tid] = "did not stop in time"
        return [tid for tid in tids if tid not in self._stop.missing]

    def _has_stopped(self, tid: int) -> bool:
        """Whether the thread stands still, or has ended."""
        try:
            got, status = os.waitpid(tid, WALL | os.WNOHANG)
        except ChildProcessError:
            self._seized.discard(tid)
            return True
        if not got:
            return False
        if not os.WIFSTOPPED(status):
            self._seized.discard(tid)
        else:
            is_event = status >> 16 == EVENT_STOP
            self._signals[tid] = 0 if is_event else os.WSTOPSIG(status)
        return True

    def _read_registers(self) -> None:
        vector = Vector(ctypes.addressof(self._buffer), LARGEST_REGISTERS)
        for tid in self._signals:
            vector.size = LARGEST_REGISTERS
            if ptrace(GETREGSET, tid, NT_PRSTATUS, ctypes.addressof(vector)) == 0:
                self._stop.registers[tid] = self._buffer.raw[: vector.size]
            else:
                self._stop.missing[tid] = "ended meanwhile"


_IN_D = "did not stop: uninterruptible wait (state D)"


def thread_ids(pid: int) -> list[int]:
    """The kernel ids of the process's threads; none, where it is gone."""
    try:
        return sorted(map(int, os.listdir(f"/proc/{pid}/task")))
    except OSError:
        return []


def living_thread(pid: int) -> int | None:
    """A thread through which the process's memory can be had: of a process whose main thread has ended, another one.
    None, where all have ended."""
    return next((tid for tid in thread_ids(pid) if not _has_ended(pid, tid)), None)


def _has_ended(pid: int, tid: int) -> bool:
    return letter(pid, tid) in ("", "Z", "X", "x")


def letter(pid: int, tid: int) -> str:
    """The state's letter (proc(5)); empty, where there is no such thread."""
    return letter_and_count(pid, tid)[0]


def letter_and_count(pid: int, tid: int) -> tuple[str, int]:
    """The same, and how many threads the process has: 0, where there is no such thread."""
    try:
        file = os.open(f"/proc/{pid}/task/{tid}/stat", os.O_RDONLY)
        try:
            text = os.read(file, _LONGEST_STATE)
        finally:
            os.close(file)
    except OSError:
        return "", 0
    fields = text[text.rfind(b")") + 2 :].split(None, _COUNT + 1)
    return (fields[0].decode(), int(fields[_COUNT])) if len(fields) > _COUNT else ("", 0)


def _status(pid: int, tid: int) -> list[str]:
    with contextlib.suppress(OSError):
        return text_of(f"/proc/{pid}/task/{tid}/status").splitlines()
    return []


class Ranges:
    """Memory (address, size) that is to be read again and again, as the kernel wants it named: `vectors` is where."""

    def __init__(self, extents: Sequence[tuple[int, int]]) -> None:
        self.extents = list(extents)
        self._vectors = (Vector * len(extents))(*[Vector(address, size) for address, size in extents])
        self.vectors = ctypes.addressof(self._vectors)


class Reader:
    """Copies memory of the process that thread `tid` is of, into `arena` or out of it: by process_vm_readv(2), which
    takes one copy, or where that is forbidden through /proc/TID/mem. NoSuchProcess, NotPermitted."""

    def __init__(self, tid: int) -> None:
        self._tid = tid
        try:
            self._file = os.open(f"/proc/{tid}/mem", os.O_RDONLY)
        except PermissionError:
            raise not_permitted(f"process {tid} may not be looked into by this user") from None
        except OSError as error:
            raise NoSuchProcess(f"process {tid} cannot be read: {error.strerror}") from None
        self._readv = libc.process_vm_readv
        self._readv.restype = ctypes.c_ssize_t
        self._readv.argtypes = [
            *(ctypes.c_int, ctypes.c_void_p, ctypes.c_ulong),
            *(ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong),
        ]
        self._here, self._there = Vector(), Vector()

    def close(self) -> None:
        os.close(self._file)

    def into(self, place: int, view: memoryview, address: int) -> int:
        """Fill `view`, which lies at `place` in our own memory, from `address` on; the bytes that were there."""
        self._here.base, self._here.size = place, len(view)
        self._there.base, self._there.size = address, len(view)
        got = self._readv(self._tid, ctypes.addressof(self._here), 1, ctypes.addressof(self._there), 1, 0)
        if got >= 0:
            return int(got)
        with contextlib.suppress(OSError, OverflowError):
            return os.preadv(self._file, [view], address)
        return 0

    def gathered(self, place: int, view: memoryview, ranges: "Ranges") -> int:
        """Fill `view`, which lies at `place`, with what is in `ranges` now, one behind the other; the bytes that were
        there."""
        got = self.at_once(place, len(view), ranges.vectors, len(ranges.extents))
        if got >= 0:
            return got
        data = b"".join(self.read(address, size) for address, size in ranges.extents)
        view[: len(data)] = data
        return len(data)

    def at_once(self, place: int, size: int, vectors: int, count: int) -> int:
        """Fill `size` bytes at `place` with what is in the `count` ranges (struct iovec) at `vectors`, all in our own
        memory, one behind the other; the bytes that were there, less than 0 where this call is forbidden."""
        self._here.base, self._here.size = place, size
        return int(self._readv(self._tid, ctypes.addressof(self._here), 1, vectors, count, 0))

    def read(self, address: int, size: int) -> bytes:
        """Up to `size` bytes at `address`."""
        try:
            return os.pread(self._file, size, address)
        except (OSError, OverflowError):
            return b""
