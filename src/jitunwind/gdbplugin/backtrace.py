"""Stacks from outside GDB: have a GDB attach (or open a core), and take the report that `stack` makes there.

Runs in the user's Python; what it calls through GDB is `gdbplugin.stack`.
"""

import json
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jitunwind.elf.image import Machine
from jitunwind.errors import GdbFailed, NoSuchProcess, NotPermitted
from jitunwind.gdbplugin.launch import STACK, load_line
from jitunwind.memory.core import check_core, program_of
from jitunwind.memory.live import check_process, is_alive, is_stopped_by_tracer

_QUIET = (
    "set auto-load no",
    "set confirm off",
    "set pagination off",
    "set width 0",
    "set debuginfod enabled off",
    "set backtrace past-main on",
    "set print thread-events off",
)
_POLL_SECONDS = 0.002


@dataclass
class Report:
    """`stacks` is what `gdbplugin.stack.report` gives; `stopped_seconds` how long the process stood still (0
    for a core); `gdb_said` GDB's own words, for when something is missing."""

    stacks: dict[str, Any]
    stopped_seconds: float
    gdb_said: str


def of_process(gdb: str, pid: int, thread: int | None = None, python: bool = False) -> Report:
    """The stacks of a live process, which goes on afterwards. NoSuchProcess, NotPermitted, AlreadyTraced,
    GdbFailed."""
    check_process(pid)
    with _StopWatch(pid) as watch:
        stacks, said, error = _run(gdb, ["-p", str(pid)], thread, python)
    if stacks is None:
        if not is_alive(pid):
            raise NoSuchProcess(f"process {pid} has ended in the middle")
        if "Operation not permitted" in said:
            raise NotPermitted(f"process {pid} may not be traced: GDB says: Operation not permitted")
        raise GdbFailed(f"{gdb} ended without an answer: {error}")
    return Report(stacks, watch.stopped_seconds, said)


def of_core(
    gdb: str, core: Path, program: str | None, thread: int | None = None, python: bool = False
) -> Report:
    """The stacks in a core file. BadCore, GdbFailed."""
    check_core(core, Machine.X86_64)
    exe = program or program_of(core)
    arguments = ["-c", str(core)] if exe is None else [exe, "-c", str(core)]
    stacks, said, error = _run(gdb, arguments, thread, python)
    if stacks is None:
        raise GdbFailed(f"{gdb} ended without an answer: {error}")
    return Report(stacks, 0.0, said)


def _run(
    gdb: str, target: list[str], thread: int | None, python: bool
) -> tuple[dict[str, Any] | None, str, str]:
    with tempfile.NamedTemporaryFile(prefix="jitunwind-", suffix=".json") as answer:
        report = (
            "python import json; from jitunwind.gdbplugin import stack; "
            f"json.dump(stack.report({thread!r}, {python!r}), open({answer.name!r}, 'w'))"
        )
        early = [part for line in (*_QUIET, load_line(STACK)) for part in ("-iex", line)]
        command = [gdb, "-nx", "-batch", *early, *target, "-ex", report]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
            )
        except OSError as error:
            raise GdbFailed(f"{gdb} cannot be run: {error.strerror}") from None
        text = Path(answer.name).read_text()
    errors = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("warning:")]
    said = done.stdout + done.stderr
    return (json.loads(text) if text else None), said, errors[-1] if errors else f"exit {done.returncode}"


class _StopWatch:
    """Measures how long a debugger holds a process, by looking at its state every two milliseconds."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.stopped_seconds = 0.0

    def __enter__(self) -> "_StopWatch":
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
