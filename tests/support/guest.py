"""AArch64's interpreters: under qemu-aarch64 where the machine is another one, GDB being at its gdbstub; on an
AArch64 machine as they are.

qemu runs with pauth=off: GDB 13 loses the stack at the first signed return address (Debian's C code signs them).
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

from tests.support.live import REPOSITORY, Interpreter, newest_gdb
from tests.support.processes import wait_until

NATIVE = platform.machine() == "aarch64"
COMPILER = "gcc" if NATIVE else "aarch64-linux-gnu-gcc"
READY = ("-ex", "tbreak alarm", "-ex", "continue")


@cache
def interpreter(minor: str) -> Interpreter:
    """AArch64's interpreter of that version. The test fails where none can be had."""
    command = [sys.executable, str(REPOSITORY / "tools/interpreters.py"), minor, "--arch", "arm64"]
    done = subprocess.run([*command, "--debug-symbols", "--json"], capture_output=True, text=True)
    if done.returncode:
        pytest.fail(f"no AArch64 Python {minor} with a JIT: {done.stderr.strip()}")
    answer = json.loads(done.stdout.splitlines()[-1])
    return Interpreter(minor, answer["python"], answer["debug_file_directory"] or "", answer["include"])


def launcher() -> list[str]:
    """What must precede a program of AArch64's. The test is skipped where there is no qemu."""
    if NATIVE:
        return []
    return [program("qemu-aarch64", "qemu-user"), "-cpu", "max,pauth=off"]


def program(name: str, package: str) -> str:
    """The path of a program that Debian's `package` brings; the test is skipped without it."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"needs {name}: install {package}")
    return path


def gdbs() -> list[str]:
    """The two GDBs that know AArch64: the machine's, and the newest."""
    return ["gdb" if NATIVE else program("gdb-multiarch", "gdb-multiarch"), newest_gdb()]


@contextmanager
def at_stub(python: Interpreter, name: str, *told: str, cwd: Path | None = None) -> Iterator[list[str]]:
    """One of the live tests' programs that waits for GDB at its very start: GDB's arguments to get there, and to
    go on to where the program is ready."""
    # While a function is bound at its first call, GDB by itself does not get out of glibc's resolver.
    settings = python.settings | {"LD_BIND_NOW": "1"}
    command = python.command(name, *told)
    early = ["-iex", "set sysroot /", "-iex", "set breakpoint pending on"]
    if NATIVE:
        environment = [
            part for each in settings.items() for part in ("-iex", "set environment {} {}".format(*each))
        ]
        start = ["-ex", "set startup-with-shell off", "-ex", "tbreak alarm", "-ex", "run"]
        yield [*early, *environment, *start, "--args", *command]
        return
    with tempfile.TemporaryDirectory() as folder:  # a socket's path must be short
        socket = Path(folder) / "gdb"
        process = subprocess.Popen(
            [*launcher(), "-g", str(socket), *command],
            env={**os.environ, **settings},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        try:
            wait_until(lambda: socket.exists() or process.poll() is not None, "qemu's gdbstub")
            yield [*early, "-ex", f"file {python.python}", "-ex", f"target remote {socket}", *READY]
        finally:
            process.kill()
            process.wait()
