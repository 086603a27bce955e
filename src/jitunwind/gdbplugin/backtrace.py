"""Stacks from outside GDB: have a GDB attach (or open a core), and take the report that `stack` makes there.

Runs in the user's Python; what it calls through GDB is `gdbplugin.stack`, which gives JSON. What is said elsewhere,
by the kernel, the core and debug files, is added here: before the process is stopped, and after it has gone on.
"""

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

from jitunwind.errors import BadCore, GdbFailed, NoSuchProcess, NotPermitted
from jitunwind.gdbplugin import debugfiles
from jitunwind.gdbplugin.guardian import Guarded
from jitunwind.gdbplugin.launch import STACK, load_line, why_unfit
from jitunwind.memory.live import (
    check_process,
    command_line,
    deleted_executable,
    executable,
    executable_here,
    is_alive,
    is_stopped_by_tracer,
    thread_states,
)
from jitunwind.memory.stopping import Standing, check_can_stop
from jitunwind.stacks.debugfiles import debug_folders

if TYPE_CHECKING:
    from jitunwind.memory.core import Signal

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
    debug_dirs: Sequence[str] = ()
    """Where to look for debug files, before the usual places."""
    c_lines: bool = False
    """The lines of C functions, too, and what the compiler has inlined: GDB then reads all that debug files say,
    partly while the process stands still: seconds, where it is 0.05 s else."""
    debuginfod: bool = False
    """Whether to ask the debuginfod servers that the environment names for the debug files that are not here."""


class Report(NamedTuple):
    """`stacks` is what `gdbplugin.stack.report` gives, with `command`, `executable` and `signal`, and each thread's
    `state`, as `bt --json` has them, and `nameless`: the files of frames that no symbol was found for.
    `stopped_seconds` is how long the process stood still (0 for a core); `gdb_said` are GDB's own words, for
    when something is missing."""

    stacks: dict[str, Any]
    stopped_seconds: float
    gdb_said: str


def of_process(gdb: str, pid: int, wanted: Wanted) -> Report:
    """The stacks of a live process, which goes on afterwards, whatever happens here.

    NoSuchProcess, NotPermitted, AlreadyTraced, NotPython, CannotStop, GdbFailed; KeyboardInterrupt for SIGINT.
    """
    check_process(pid)
    check_can_stop(pid)
    own = executable_here(pid) or deleted_executable(pid)
    arguments = [own] if own else []  # GDB reads its symbols before it stops the process
    known = {"command": command_line(pid), "executable": executable(pid), "signal": None}
    states = thread_states(pid)
    with contextlib.closing(Standing(pid)) as target:
        answer = _run(gdb, [*arguments, "-p", str(pid)], wanted, arguments, target)
    if (answer.stacks is None or not answer.stacks["complete"]) and not is_alive(pid):
        raise NoSuchProcess(f"process {pid} has ended while its stacks were being read")
    if answer.stacks is None and "Operation not permitted" in answer.said:
        raise NotPermitted(f"process {pid} may not be traced: GDB says: Operation not permitted")
    stacks = answer.checked(gdb) | known
    for thread in stacks["threads"]:
        thread["state"] = states.get(thread["tid"])
    _name_functions(stacks, wanted, arguments, f"/proc/{pid}/root", str)
    return Report(stacks, answer.stopped_seconds, answer.said)


def of_core(gdb: str, core: Path, program: str | None, wanted: Wanted) -> Report:
    """The stacks in a core file, left by `program` (None: what the core itself says). BadCore, GdbFailed."""
    from jitunwind.memory import core as cores  # with a process `bt` starts faster without it

    cores.check_core(core)
    exe = cores.program_here(core, program)
    programs = [] if exe is None else [str(exe)]
    answer = _run(gdb, [*programs, "-c", str(core)], wanted, programs)
    known = {
        "command": cores.arguments_of(core),
        "executable": programs[0] if programs else None,
        "signal": _as_data(cores.signal_of(core)),
    }
    stacks = answer.checked(gdb) | known
    if not cores.holds_stacks(core):  # GDB then shows what the program's file has
        stacks |= {
            "python": None,
            "problem": f"the core {cores.WITHOUT_MEMORY}",
            "problem_kind": BadCore.__name__,
        }
    stacks["warnings"] += _missing_files(core, exe)
    own = cores.program_of(core).path
    _name_functions(stacks, wanted, programs, "", lambda path: programs[0] if path == own else path)
    return Report(stacks, 0.0, answer.said)


def _missing_files(core: Path, program: Path | None) -> list[str]:
    """A line for each program and library of the core that is not here, or another one here."""
    from jitunwind.memory.corefile import CoreFile

    with CoreFile(core, program) as memory:
        memory.files.find_all()
        return memory.files.warnings


def _name_functions(
    stacks: dict[str, Any], wanted: Wanted, programs: Sequence[str], root: str, here: Callable[[str], str]
) -> None:
    """Name the functions without a symbol by debug files, which GDB has not read: that takes it a second and more, in
    which the process would stand still. `root` is the process's root directory on this machine, `here` says which
    file below it a file of the process is."""
    from jitunwind.stacks.debuginfod import servers  # `bt` starts faster without these
    from jitunwind.stacks.separate import opened_elf
    from jitunwind.stacks.symbols import FileSymbols

    folders = debug_folders(wanted.debug_dirs, programs)
    folders += stacks["debug_folders"].split(os.pathsep)
    files: dict[str, FileSymbols | None] = {}
    urls = servers() if wanted.debuginfod else []
    nameless = set()
    for frame in (frame for thread in stacks["threads"] for frame in thread["frames"]):
        place = frame.pop("unnamed", None)
        if place is not None:
            path, offset = place
            if path not in files:
                headers = opened_elf(root + here(path))
                known = [folder for folder in folders if folder]
                files[path] = (
                    FileSymbols(headers, here(path), known, root, urls) if headers is not None else None
                )
            symbols = files[path]
            name = symbols.at(symbols.begin + offset) if symbols is not None else None
            if name is not None:
                frame["name"] = name.function
            else:
                nameless.add(path)
    stacks["nameless"] = sorted(nameless)


def _as_data(got: "Signal | None") -> dict[str, Any] | None:
    if got is None:
        return None
    try:
        name = signal.Signals(got.number).name
    except ValueError:
        name = str(got.number)
    address = None if got.address is None else f"{got.address:#x}"
    return {**got._asdict(), "name": name, "address": address}


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


def _run(
    gdb: str, arguments: list[str], wanted: Wanted, programs: Sequence[str], target: Standing | None = None
) -> _Answer:
    """`programs`: those whose debug files are wanted. `target`: the process that GDB attaches to; it goes on
    afterwards."""
    with _Channel() as answer, _Channel() as stdout, _Channel() as stderr:
        report = (
            "python import json; from jitunwind.gdbplugin import stack; "
            f"report = stack.report{(wanted.thread, wanted.python, wanted.registers)!r}; "
            "report['debug_folders'] = own_debug_folders; "
            f"open({answer.descriptor}, 'w').write(json.dumps(report))"
        )
        settings = [*_QUIET, debugfiles.ASK, debugfiles.WITHOUT, load_line(STACK)]
        if wanted.c_lines:
            settings[-2] = debugfiles.setting(debug_folders(wanted.debug_dirs, programs))
        early = [part for line in settings for part in ("-iex", line)]
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

    Leaving raises KeyboardInterrupt for SIGINT, SystemExit for the others. A signal that is ignored stays ignored.
    Does nothing outside the main thread.
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
