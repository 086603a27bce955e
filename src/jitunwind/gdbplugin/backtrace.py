"""Stacks from outside GDB: have a GDB attach (or open a core), and take the report that `stack` makes there.

Runs in the user's Python; what it calls through GDB is `gdbplugin.stack`.
"""

import contextlib
import json
import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from jitunwind.errors import GdbFailed, NoSuchProcess, NotPermitted
from jitunwind.gdbplugin.guardian import Guarded
from jitunwind.gdbplugin.launch import STACK, load_line, why_unfit
from jitunwind.memory.live import check_process, is_alive, is_stopped_by_tracer
from jitunwind.memory.stopping import Standing, check_can_stop

_QUIET = (
    "set auto-load no",
    "set confirm off",
    "set pagination off",
    "set width 0",
    "set debuginfod enabled off",
    "set backtrace past-main on",
    "set backtrace limit unlimited",
    "set print thread-events off",
)
_POLL_SECONDS = 0.002


class Wanted(NamedTuple):
    """What to report: all threads, or one; the pure Python frames, too; each frame's registers, too."""

    thread: int | None = None
    python: bool = False
    registers: bool = False


class Report(NamedTuple):
    """`stacks` is what `gdbplugin.stack.report` gives; `stopped_seconds` how long the process stood still (0
    for a core); `gdb_said` GDB's own words, for when something is missing."""

    stacks: dict[str, Any]
    stopped_seconds: float
    gdb_said: str


def of_process(gdb: str, pid: int, wanted: Wanted) -> Report:
    """The stacks of a live process, which goes on afterwards, whatever happens here.

    NoSuchProcess, NotPermitted, AlreadyTraced, NotPython, CannotStop, GdbFailed; KeyboardInterrupt for SIGINT.
    """
    check_process(pid)
    check_can_stop(pid)
    with contextlib.closing(Standing(pid)) as target:
        answer = _run(gdb, ["-p", str(pid)], wanted, target)
    if (answer.stacks is None or not answer.stacks["complete"]) and not is_alive(pid):
        raise NoSuchProcess(f"process {pid} has ended while its stacks were being read")
    if answer.stacks is None and "Operation not permitted" in answer.said:
        raise NotPermitted(f"process {pid} may not be traced: GDB says: Operation not permitted")
    return Report(answer.checked(gdb), answer.stopped_seconds, answer.said)


def of_core(gdb: str, core: Path, program: str | None, wanted: Wanted) -> Report:
    """The stacks in a core file, left by `program` (None: what the core itself says). BadCore, GdbFailed."""
    from jitunwind.memory.core import check_core, program_here  # with a process `bt` starts faster without it

    check_core(core)
    exe = program_here(core, program)
    arguments = ["-c", str(core)] if exe is None else [str(exe), "-c", str(core)]
    answer = _run(gdb, arguments, wanted)
    return Report(answer.checked(gdb), 0.0, answer.said)


class _Answer(NamedTuple):
    """What a GDB gave: the report, if it made one; all it said; its last error, or how it ended; and how long it
    held its process."""

    stacks: dict[str, Any] | None
    said: str
    complaint: str
    stopped_seconds: float

    def checked(self, gdb: str) -> dict[str, Any]:
        """The report. GdbFailed, if there is none."""
        if self.stacks is not None:
            return self.stacks
        unfit = why_unfit(gdb)
        if unfit is not None:
            raise GdbFailed(unfit)
        raise GdbFailed(f"{gdb} ended without an answer: {self.complaint}")


def _run(gdb: str, arguments: list[str], wanted: Wanted, target: Standing | None = None) -> _Answer:
    """`target`: the process that GDB attaches to; it goes on afterwards."""
    with _Channel() as answer, _Channel() as stdout, _Channel() as stderr:
        report = (
            "python import json; from jitunwind.gdbplugin import stack; "
            f"open({answer.descriptor}, 'w').write(json.dumps(stack.report{tuple(wanted)!r}))"
        )
        early = [part for line in (*_QUIET, load_line(STACK)) for part in ("-iex", line)]
        command = [gdb, "-nx", "-batch", *early, *arguments, "-ex", report]
        targets = [] if target is None else [target]
        channels = stdout.descriptor, stderr.descriptor, [answer.descriptor]
        with _Interruptible() as running, Guarded(command, targets, *channels) as guarded:
            running.watch(guarded)
            with StopWatch(target.pid) if target else contextlib.nullcontext() as watch:
                try:
                    status = guarded.wait()
                except OSError as error:
                    raise GdbFailed(f"{gdb} cannot be run: {error.strerror}") from None
        try:
            stacks = json.loads(answer.read())
        except ValueError:
            stacks = None
        complaints = stderr.read()
        said = stdout.read() + complaints
    errors = [line for line in complaints.splitlines() if line.strip() and not line.startswith("warning:")]
    complaint = errors[-1] if errors else f"exit status {status}"
    stood = watch.stopped_seconds if watch else 0.0
    return _Answer(stacks, said, complaint, stood)


class _Channel:
    """A file in memory that GDB writes to. Unlike a pipe it needs no reader meanwhile."""

    def __enter__(self) -> "_Channel":
        self.descriptor = os.memfd_create("jitunwind-gdb")
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self.descriptor)

    def read(self) -> str:
        """All that was written."""
        size = os.stat(self.descriptor).st_size
        return os.pread(self.descriptor, size, 0).decode(errors="replace")


class _Interruptible:
    """While a GDB runs, SIGINT, SIGTERM and SIGHUP end it first, and us then.

    Leaving raises KeyboardInterrupt for SIGINT, SystemExit for the others. A signal that is ignored stays ignored. Does
    nothing outside the main thread.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self._gdb: Guarded | None = None
        self._signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "_Interruptible":
        if threading.current_thread() is threading.main_thread():
            for number in self._SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, or a shell's background job
                    self._before[number] = signal.signal(number, self._interrupt)
        return self

    def watch(self, gdb: Guarded) -> None:
        self._gdb = gdb
        if self._signal is not None:
            gdb.kill()

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self._signal is not None:
            raise SystemExit(128 + self._signal)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._signal = number
        if self._gdb is not None:
            self._gdb.kill()


class StopWatch:
    """Measures how long a debugger holds a process, by looking at its state every two milliseconds."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.stopped_seconds = 0.0

    def __enter__(self) -> "StopWatch":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        last = time.monotonic()
        while not self._done.wait(_POLL_SECONDS):
            now = time.monotonic()
            if is_stopped_by_tracer(self._pid):
                self.stopped_seconds += now - last
            last = now
