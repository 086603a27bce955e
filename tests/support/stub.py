"""Programs of another machine under a debugger: by the gdbstub of qemu's emulation."""

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support.machines import Machine
from tests.support.processes import wait_until


@contextmanager
def waiting_for_gdb(
    machine: Machine,
    program: Sequence[str | Path],
    environment: Mapping[str, str],
    *,
    sysroot: str = "",
    output: int = subprocess.DEVNULL,
    cwd: Path | None = None,
) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """`program`, emulated, which stands before its first instruction; and GDB's arguments to connect to it. It is
    killed at the end. `sysroot`: what stands for the root of its machine, if not the root.

    GDB can come only then: to qemu 7.2 nobody can attach later, and it does not heed GDB's interrupts.
    """
    with TemporaryDirectory(prefix="jitunwind-") as folder:
        socket = Path(folder, "gdb")
        process = subprocess.Popen(
            [*machine.emulator, "-g", socket, *(["-L", sysroot] if sysroot else []), *program],
            env=environment,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            text=True,
        )
        try:
            wait_until(lambda: socket.exists() or process.poll() is not None, "qemu's gdbstub")
            root = f"set sysroot {sysroot or '/'}"
            yield process, ["-iex", root, "-ex", f"file {program[0]}", "-ex", f"target remote {socket}"]
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
