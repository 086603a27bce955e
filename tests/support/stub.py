"""Programs of another machine under a debugger: by the gdbstub of qemu's emulation."""

import os
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support.machines import Machine
from tests.support.processes import wait_until

ENDING = 20.0
"""Seconds for qemu to end after GDB has."""


@contextmanager
def waiting_for_gdb(
    machine: Machine,
    program: Sequence[str | Path],
    environment: Mapping[str, str],
    folder: Path | None = None,
) -> Iterator[list[str]]:
    """GDB's arguments to begin with, which lead to `program`, emulated, before its first instruction; it is killed at
    the end. It runs in `folder`. Where nothing has to be emulated, GDB starts it itself. Of the emulated one what it
    prints is lost.

    GDB can come only then: to qemu 7.2 nobody can attach later, and it does not heed GDB's interrupts.
    """
    path, *arguments = map(str, program)
    begin = ["-ex", f"file {path}"]
    if not machine.is_emulated:
        own = {name: value for name, value in environment.items() if os.environ.get(name) != value}
        settings = [f"set environment {name} {value}" for name, value in own.items()]
        start = [f"set args {shlex.join(arguments)}", *settings, "starti"]
        yield [*begin, *(word for command in start for word in ("-ex", command))]
        return
    with TemporaryDirectory(prefix="jitunwind-") as place:  # a socket's path must be short
        socket = Path(place, "gdb")
        process = subprocess.Popen(
            [*machine.emulator, "-g", socket, path, *arguments],
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        try:
            wait_until(lambda: socket.exists() or process.poll() is not None, "qemu's gdbstub")
            yield ["-iex", "set sysroot /", *begin, "-ex", f"target remote {socket}"]
            # It ends by itself when GDB has gone: at once, or when it has left its core.
            with suppress(subprocess.TimeoutExpired):
                process.wait(ENDING)
        finally:
            process.kill()
            process.wait()
