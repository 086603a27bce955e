"""Programs to look into from outside, and the `jitunwind` command to look with.

A program stands in read(2) on its standard input, in hot code, once `Program.warm` is done; every wait here
is for a condition that the kernel tells, with a deadline.
"""

import fcntl
import json
import os
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from jitunwind.memory.process import LiveProcess
from tests.support import live

ROOT = Path(__file__).parents[2]
PROGRAMS = ROOT / "tests/cli/programs"
VERSIONS = live.VERSIONS
SHIMS = {"3.14": "py::jit_shim:<jit>", "3.15": "_PyJIT_Entry"}
"""What the frame is called by which each version enters JIT code."""
PATIENCE = 60.0
"""Seconds until a condition that has to come counts as one that never does."""
WARM = 6000
"""Bytes that make a loop hot on both versions."""
WARM_CHAIN = 500 * 500 - 3
"""Bytes after which `chain.py` stands in the last rounds of its loops; 500 are one round of the outermost."""
_POLL_SECONDS = 0.002
_SYS_READ = "0"

Done = subprocess.CompletedProcess[str]


def interpreter(version: str) -> str:
    """The path of a CPython of that minor version with a JIT; the test fails where none can be had."""
    return live.interpreter(version).python


def jitunwind(
    *arguments: object,
    environment: Mapping[str, str] | None = None,
    timeout: float = PATIENCE,
    **options: Any,
) -> Done:
    """Run `jitunwind` in a process of its own."""
    return subprocess.run(
        command(*arguments),
        env=plain_environment() | dict(environment or {}),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        **options,
    )


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "jitunwind", *map(str, arguments)]


def plain_environment() -> dict[str, str]:
    """The environment, without what would change jitunwind's output or its GDB."""
    unwanted = ("JITUNWIND_GDB", "NO_COLOR", "FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "COLUMNS")
    return {name: value for name, value in os.environ.items() if name not in unwanted}


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Until `condition` is true: of states that only the kernel knows, and tells nobody."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {PATIENCE:.0f} s for {what}")
        time.sleep(_POLL_SECONDS)


def status(pid: int) -> dict[str, str]:
    """/proc/PID/status (proc(5)); empty where the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


class Program:
    """One of `tests/cli/programs`, or another command with the same manners."""

    def __init__(
        self,
        arguments: Sequence[object],
        jit: str | None = "1",
        environment: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        self.environment = {k: v for k, v in os.environ.items() if k != "PYTHON_JIT"}
        self.environment |= {"PYTHONDONTWRITEBYTECODE": "1"} | dict(environment or {})
        if jit is not None:
            self.environment["PYTHON_JIT"] = jit
        self.arguments = [str(argument) for argument in arguments]
        self.process = subprocess.Popen(
            self.arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self.environment,
            **options,
        )
        self.pid = self.process.pid

    def __enter__(self) -> "Program":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    def warm(self, count: int = WARM) -> "Program":
        """Have it get hot, and stand still in read(2)."""
        self.send(b"w" * count)
        self.settle()
        return self

    def send(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def settle(self) -> None:
        """Wait until all is read, and all threads wait for more."""
        wait_until(lambda: self.process.poll() is not None or self.is_waiting(), f"{self.pid} to wait")
        assert self.process.poll() is None, f"{self.process.args} ended with {self.process.returncode}"

    def is_waiting(self) -> bool:
        assert self.process.stdin is not None
        (unread,) = struct.unpack("i", fcntl.ioctl(self.process.stdin, termios.FIONREAD, b"\0\0\0\0"))
        waiting = [reads_a_pipe(self.pid, tid) for tid in self.tids()]
        return not unread and bool(waiting) and all(waiting)

    def tids(self) -> list[int]:
        return sorted(int(entry.name) for entry in Path(f"/proc/{self.pid}/task").iterdir())

    def ask(self, byte: bytes) -> bytes:
        """Send a byte, and give the line that answers it."""
        assert self.process.stdout is not None
        self.send(byte)
        line = self.process.stdout.readline()
        self.settle()
        return line

    def goes_on(self) -> bool:
        """Whether it still runs: nobody traces it, it does not stand still, and it answers."""
        now = status(self.pid)
        return now["TracerPid"] == "0" and now["State"][0] in "RS" and self.ask(b"p") == b"p\n"

    def python_stack(self) -> list[tuple[str, str, int]]:
        """What the program says of its Python frames, the innermost (`take`) left out: (name, file, line)."""
        return [(name, file, line) for name, file, line in json.loads(self.ask(b"s"))]

    def kill(self, number: int = signal.SIGKILL) -> None:
        os.kill(self.pid, number)


def run(version: str, name: str, **options: Any) -> Program:
    """Start one of `tests/cli/programs`."""
    return Program([interpreter(version), PROGRAMS / name], **options)


def reads_a_pipe(pid: int, tid: int) -> bool:
    """Whether a thread waits in read(2) for a pipe; for a file, as while it imports, does not count."""
    try:
        number, descriptor, *_ = Path(f"/proc/{pid}/task/{tid}/syscall").read_text().split()
        return number == _SYS_READ and os.readlink(f"/proc/{pid}/fd/{int(descriptor, 16)}").startswith(
            "pipe:"
        )
    except (OSError, ValueError):  # it runs, or has gone
        return False


class WritableProcess(LiveProcess):
    """A live process whose memory a test damages, and repairs."""

    def __init__(self, pid: int) -> None:
        super().__init__(pid)
        self._before: list[tuple[int, bytes]] = []

    def write(self, address: int, data: bytes) -> None:
        self._before.append((address, self.read(address, len(data))))
        self._put(address, data)

    def write_word(self, address: int, value: int) -> None:
        self.write(address, value.to_bytes(8, "little"))

    def repair(self) -> None:
        """Undo all writes."""
        while self._before:
            self._put(*self._before.pop())

    def _put(self, address: int, data: bytes) -> None:
        with open(f"/proc/{self.pid}/mem", "r+b", buffering=0) as memory:
            memory.seek(address)
            memory.write(data)
