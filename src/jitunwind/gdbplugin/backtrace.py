"""Stacks from outside GDB: have a GDB attach (or open a core), and take the report that `stack` makes there.

Runs in the user's Python; what it calls through GDB is `gdbplugin.stack`.
"""

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from jitunwind.errors import GdbFailed, NoSuchProcess, NotPermitted
from jitunwind.gdbplugin.launch import STACK, load_line, why_unfit
from jitunwind.memory.live import (
    check_process,
    is_alive,
    is_stopped_by_signal,
    is_stopped_by_tracer,
    let_go_on,
)

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
_GRACE_SECONDS = 5.0
"""How long an interrupted GDB has for letting go of the process, before it is killed."""


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

    NoSuchProcess, NotPermitted, AlreadyTraced, NotPython, GdbFailed; KeyboardInterrupt for SIGINT.
    """
    check_process(pid)
    stood_before = is_stopped_by_signal(pid)
    try:
        with StopWatch(pid) as watch:
            answer = _run(gdb, ["-p", str(pid)], wanted)
    finally:
        if not stood_before:
            let_go_on(pid)
    if (answer.stacks is None or not answer.stacks["complete"]) and not is_alive(pid):
        raise NoSuchProcess(f"process {pid} has ended while its stacks were being read")
    if answer.stacks is None and "Operation not permitted" in answer.said:
        raise NotPermitted(f"process {pid} may not be traced: GDB says: Operation not permitted")
    return Report(answer.checked(gdb), watch.stopped_seconds, answer.said)


def of_core(gdb: str, core: Path, program: str | None, wanted: Wanted) -> Report:
    """The stacks in a core file, left by `program` (None: what the core itself says). BadCore, GdbFailed."""
    from jitunwind.memory.core import check_core, program_here  # with a process `bt` starts faster without it

    check_core(core)
    exe = program_here(core, program)
    arguments = ["-c", str(core)] if exe is None else [str(exe), "-c", str(core)]
    answer = _run(gdb, arguments, wanted)
    return Report(answer.checked(gdb), 0.0, answer.said)


class _Answer(NamedTuple):
    """What a GDB gave: the report, if it made one, all it said, and its exit status."""

    stacks: dict[str, Any] | None
    said: str
    complaint: str

    def checked(self, gdb: str) -> dict[str, Any]:
        """The report. GdbFailed, if there is none."""
        if self.stacks is not None:
            return self.stacks
        unfit = why_unfit(gdb)
        if unfit is not None:
            raise GdbFailed(unfit)
        raise GdbFailed(f"{gdb} ended without an answer: {self.complaint}")


def _run(gdb: str, target: list[str], wanted: Wanted) -> _Answer:
    with open(os.memfd_create("jitunwind-stacks"), "w+b", buffering=0) as answer:
        report = (
            "python import json; from jitunwind.gdbplugin import stack; "
            f"open({answer.fileno()}, 'w').write(json.dumps(stack.report{tuple(wanted)!r}))"
        )
        early = [part for line in (*_QUIET, load_line(STACK)) for part in ("-iex", line)]
        command = [gdb, "-nx", "-batch", *early, *target, "-ex", report]
        with _Interruptible() as running:
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    errors="replace",
                    pass_fds=[answer.fileno()],
                    start_new_session=True,  # a terminal's Ctrl-C comes here, and GDB is told by us
                )
            except OSError as error:
                raise GdbFailed(f"{gdb} cannot be run: {error.strerror}") from None
            running.watch(process)
            stdout, stderr = process.communicate()
        try:
            answer.seek(0)
            stacks = json.loads(answer.read())
        except ValueError:
            stacks = None
    errors = [line for line in stderr.splitlines() if line.strip() and not line.startswith("warning:")]
    return _Answer(stacks, stdout + stderr, errors[-1] if errors else f"exit status {process.returncode}")


class _Interruptible:
    """While a GDB runs, SIGINT, SIGTERM and SIGHUP make it let go of the process first, and end us then.

    GDB detaches when it gets SIGTERM; a second signal, or five seconds, kill it. Leaving raises
    KeyboardInterrupt for SIGINT, SystemExit for the others. Does nothing outside the main thread.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._signal: int | None = None
        self._before: dict[int, Any] = {}
        self._killer: threading.Timer | None = None

    def __enter__(self) -> "_Interruptible":
        if threading.current_thread() is threading.main_thread():
            for number in self._SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, or a shell's background job
                    self._before[number] = signal.signal(number, self._interrupt)
        return self

    def watch(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        if self._signal is not None:
            self._end()

    def __exit__(self, *exception: object) -> None:
        if self._killer is not None:
            self._killer.cancel()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self._signal is not None:
            raise SystemExit(128 + self._signal)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        again, self._signal = self._signal is not None, number
        if again:
            self._send(signal.SIGKILL)
        elif self._process is not None:
            self._end()

    def _end(self) -> None:
        self._send(signal.SIGTERM)
        self._killer = threading.Timer(_GRACE_SECONDS, self._send, (signal.SIGKILL,))
        self._killer.daemon = True
        self._killer.start()

    def _send(self, number: signal.Signals) -> None:
        """To GDB and what it has started: it leads a session of its own."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(OSError):  # it has ended
                os.killpg(self._process.pid, number)


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
