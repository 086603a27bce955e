"""A program that is stopped by SIGSTOP at random moments, and at each looked at by GDB with the plugin and by us."""

import json
import os
import random
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jitunwind.memory.live import task_status
from jitunwind.stacks.library import stacks
from jitunwind.stacks.model import Stacks
from tests.support.live import LOAD, PATIENCE, REPOSITORY
from tests.support.processes import wait_until

ATTACHING = REPOSITORY / "tests/support/attaching.py"
LONGEST = 0.01
"""Seconds that the program runs between two stops."""


class Witness:
    """A GDB that attaches whenever it is told to."""

    def __init__(self, pid: int, folder: Path, gdb: str = "gdb") -> None:
        self._into = folder / "report.json"
        paths = [folder / "gate", folder / "done"]
        for path in paths:
            os.mkfifo(path)
        self._gate, self._done = (os.open(path, os.O_RDWR) for path in paths)
        names = {"PID": pid, "GATE": str(paths[0]), "DONE": str(paths[1]), "INTO": str(self._into)}
        load = {"SEARCH": [str(REPOSITORY / "src")], "START": "jitunwind.gdbplugin.stack"}
        early = ["set auto-load no", "set width 0", "set confirm off", "set debug-file-directory"]
        early += [
            "set backtrace past-main on",
            f"python import runpy; runpy.run_path({str(LOAD)!r}, {load!r})",
        ]
        command = [gdb, "-nx", "-q", "-batch", *(part for line in early for part in ("-iex", line))]
        command += ["-ex", f"python import runpy; runpy.run_path({str(ATTACHING)!r}, {names!r})"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._wait()

    def _wait(self) -> None:
        while not select.select([self._done], [], [], 0.5)[0]:
            assert self._process.poll() is None, self._process.communicate()[0]
        os.read(self._done, 1)

    def report(self) -> dict[str, Any]:
        """What GDB says of the process now."""
        os.write(self._gate, b".")
        self._wait()
        found: dict[str, Any] = json.loads(self._into.read_text())
        return found

    def close(self) -> None:
        os.write(self._gate, b"!")
        self._process.communicate(timeout=PATIENCE)
        for descriptor in (self._gate, self._done):
            os.close(descriptor)


@contextmanager
def witness(pid: int, folder: Path, gdb: str = "gdb") -> Iterator[Witness]:
    found = Witness(pid, folder, gdb)
    try:
        yield found
    finally:
        found.close()


def stop(pid: int) -> None:
    """By SIGSTOP, until all threads stand still."""
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: all(each["State"][0] == "T" for each in task_status(pid)), f"{pid} to stop")


def at_random_moments(
    pid: int, times: int, of_gdb: Witness, seed: int = 1
) -> Iterator[tuple[dict[str, Any], Stacks]]:
    """What GDB says and what we say, at each stop. The process runs afterwards."""
    moments = random.Random(seed)
    try:
        for _ in range(times):
            os.kill(pid, signal.SIGCONT)
            time.sleep(moments.uniform(0, LONGEST))  # not a wait for anything: any moment is as good
            stop(pid)
            yield of_gdb.report(), stacks(pid, python=True)
    finally:
        os.kill(pid, signal.SIGCONT)


def differences(gdbs: dict[str, Any], ours: Stacks) -> list[str]:
    """Where the two differ: program counters, stack pointers, kinds, names, lines, callee-saved registers."""
    found = []
    of_gdb = {thread["tid"]: thread for thread in gdbs["threads"]}
    if of_gdb.keys() != {thread.tid for thread in ours.threads}:
        found.append(f"threads: {sorted(of_gdb)} and {[thread.tid for thread in ours.threads]}")
    for thread in ours.threads:
        theirs = of_gdb[thread.tid]["frames"]
        if thread.reason:
            found.append(f"{thread.tid}: not whole: {thread.reason}")
        for number, (one, other) in enumerate(zip(theirs, thread.frames, strict=False)):
            named = "unnamed" not in one
            wanted = (
                *(int(one["pc"], 16), int(one["sp"], 16), one["kind"], one["name"] if named else other.name),
                *(
                    one["function"],
                    one["trace"],
                    one["inlined"],
                    None if one["kind"] == "native" else one["file"],
                ),
                *(None if one["kind"] == "native" else one["line"],),
                {name: int(value, 16) for name, value in one["registers"].items()},
            )
            got = (
                *(
                    other.pc,
                    other.sp,
                    str(other.kind),
                    other.name,
                    other.function,
                    other.trace,
                    other.inlined,
                ),
                *(other.file, other.line, dict(other.registers)),
            )
            if wanted != got:
                found.append(f"{thread.tid} #{number}:\n  GDB  {wanted}\n  ours {got}")
        if len(theirs) != len(thread.frames):
            found.append(f"{thread.tid}: {len(theirs)} frames and {len(thread.frames)}")
    return found
