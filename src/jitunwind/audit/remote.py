"""A process under a stub of GDB's remote protocol: started in qemu-user, or waiting at an address already.

Code of another architecture is stepped so. qemu-user's stub does not listen while the program runs (7.2); it is
interrupted by a signal to qemu, which its stub reports, and nobody delivers. A stub that cannot be interrupted is
waited for: what is new announces itself at breakpoints.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import struct
import subprocess
import tempfile
import time
from collections.abc import Container, Mapping, Sequence
from functools import partial
from pathlib import Path

from jitunwind.arch import Architecture
from jitunwind.arch.known import of_machine
from jitunwind.audit.steppable import Stop
from jitunwind.errors import JitunwindError, NoStub, NoUserEmulator, RemoteFailed
from jitunwind.remote.process import AT_BASE, AT_ENTRY, SIGTRAP, RemoteProcess
from jitunwind.remote.protocol import Ended, Stopped, Stub, thread_number

_START_SECONDS = 60.0
"""In which qemu has to wait for us."""
_LEAST_WAIT = 0.25
"""Seconds that the program runs before it is looked at again: a look takes some milliseconds here."""
_STEP_SECONDS = 30.0
_STOP_SECONDS = 10.0
_SIGPWR = 32
"""GDB's number of it. Programs use it for nothing, qemu-user reports it, and neither ends for it."""
_GDB_SIGNALS = (
    *(
        "HUP",
        "INT",
        "QUIT",
        "ILL",
        "TRAP",
        "ABRT",
        "EMT",
        "FPE",
        "KILL",
        "BUS",
        "SEGV",
        "SYS",
        "PIPE",
        "ALRM",
    ),
    *("TERM", "URG", "STOP", "TSTP", "CONT", "CHLD", "TTIN", "TTOU", "IO", "XCPU", "XFSZ", "VTALRM", "PROF"),
    *("WINCH", "LOST", "USR1", "USR2", "PWR"),
)
"""By GDB's numbers, from 1 on (include/gdb/signals.def)."""
_E_ENTRY = 24
_PR_SET_PDEATHSIG = 1


class RemoteTracee:
    """The process behind a stub: see `Steppable`. RemoteFailed where the stub does not do what it is asked to."""

    def __init__(self, process: RemoteProcess, emulator: "subprocess.Popen[bytes] | None" = None) -> None:
        self._process, self._emulator = process, emulator
        self.started_here = emulator is not None
        self.ending: int | None = None
        self.is_alive = True
        self._threads: dict[int, str] = {}
        self._pending: list[Stop] = []
        self._listens = not process.stub.acknowledges
        """Whether the stub takes interrupts."""
        if emulator is not None:
            process.withheld.add(_SIGPWR)
        self._note_thread()

    @classmethod
    def start(
        cls,
        command: Sequence[str],
        environment: Mapping[str, str],
        output: int | None,
        arch: Architecture,
    ) -> "RemoteTracee":
        """Start a program of another architecture in qemu-user: it stands where its loader gives it control.

        NoUserEmulator where there is none; `output` as for `ptrace.Tracee.start`.
        """
        name = f"qemu-{arch.name}"
        qemu = shutil.which(name) or shutil.which(f"{name}-static")
        if qemu is None:
            raise NoUserEmulator(f"{command[0]} is {arch.name} code: to run it here takes {name}")
        with tempfile.TemporaryDirectory(prefix="jitunwind-") as folder:
            path = os.path.join(folder, "stub")
            emulator = subprocess.Popen(
                [qemu, "-g", path, *command],
                env=dict(environment),
                stdout=output,
                preexec_fn=partial(_end_with, os.getpid()),
            )
            try:
                stub = _connected(path, emulator, command[0])
                tracee = cls(RemoteProcess(stub), emulator)
                tracee._run_to_entry()
            except BaseException:
                emulator.kill()
                emulator.wait()
                raise
        return tracee

    @classmethod
    def connect(cls, address: str, program: str | None) -> "RemoteTracee":
        """Take over the program of a stub that waits at `address`. `program` as for `RemoteProcess`. NoStub."""
        tracee = cls(RemoteProcess(Stub.connect(address), program))
        tracee._run_to_entry()
        return tracee

    def _run_to_entry(self) -> None:
        """Where nothing has run yet: let the loader map the program's libraries."""
        process = self._process
        base, entry = process.auxiliary.get(AT_BASE, 0), process.auxiliary.get(AT_ENTRY, 0)
        if not base or not entry:
            return
        (first,) = struct.unpack("<Q", process.checked_read(base + _E_ENTRY, 8))
        if process.registers(process.thread)[-1] != base + first:
            return
        self.insert(entry)
        self.go_on()
        self.wait(None)
        self._process.remove(entry)

    # Steppable

    @property
    def memory(self) -> RemoteProcess:
        return self._process

    @property
    def breakpoints(self) -> Container[int]:
        return self._process.breakpoints

    def wait(self, seconds: float | None) -> Stop | None:
        end = None if seconds is None else time.monotonic() + max(seconds, _LEAST_WAIT)
        while self.is_alive:
            if self._pending:
                return self._pending.pop(0)
            stop = self._next(None if end is None else end - time.monotonic())
            if stop is None or stop.breakpoint:
                return stop
            self.go_on()
        return None

    def _next(self, seconds: float | None) -> Stop | None:
        """The next thread that stops; None when time is up, or the process has ended."""
        said = self._process.wait(None if seconds is None else max(seconds, 0.0))
        if isinstance(said, Ended):
            self._end(said)
        return self._note(said) if isinstance(said, Stopped) else None

    def _note(self, said: Stopped) -> Stop:
        tid = self._note_thread()
        if said.signal != SIGTRAP:
            self._process.signals[said.thread] = said.signal
            return Stop(tid, signal=said.signal)
        pc = self._process.registers(said.thread)[-1]
        return Stop(tid, breakpoint=pc if pc in self._process.breakpoints else 0)

    def _note_thread(self) -> int:
        """The number of the thread that has stopped last."""
        tid = thread_number(self._process.thread)
        self._threads[tid] = self._process.thread
        return tid

    def _end(self, said: Ended) -> None:
        self.is_alive = False
        self.ending = said.status << 8 | _number_here(said.signal)
        if self._emulator is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._emulator.wait(_STOP_SECONDS)

    def stop(self) -> bool:
        if not self.is_alive or not self._process.is_running:
            return self.is_alive
        if self._emulator is not None:
            self._emulator.send_signal(signal.SIGPWR)
        elif self._listens:
            self._process.stub.interrupt()
        else:
            return False
        stop = self._next(_STOP_SECONDS)
        if stop is None and self.is_alive:
            if self._emulator is not None:
                raise RemoteFailed("qemu does not stop the program")
            self._listens = False
            return False
        if stop is not None and stop.breakpoint:
            self._pending.append(stop)
        return self.is_alive

    def go_on(self) -> None:
        if self.is_alive and not self._process.is_running and not self._pending:
            thread = self._process.thread
            number = self._process.signals.pop(thread, 0)
            self._process.resume(thread if number else "", signal=number, others=True)

    def threads(self) -> list[int]:
        """The one that has stopped last: others may have ended."""
        return [] if self._process.is_running else [self._note_thread()]

    def step(self, tid: int) -> Stop | None:
        thread = self._threads[tid]
        while True:
            self._process.resume(thread, step=True, signal=self._process.signals.pop(thread, 0))
            stop = self._next(_STEP_SECONDS)
            if stop is None:
                if self.is_alive:
                    raise RemoteFailed("the stub does not come back from a step")
                return None
            if stop.tid != tid:
                self._pending.append(stop)
            elif stop.signal not in self._process.withheld:  # else an interrupt came late: nothing has run
                return stop._replace(breakpoint=0)

    def registers(self, tid: int) -> list[int]:
        return self._process.registers(self._threads[tid])

    def insert(self, address: int) -> None:
        self._process.insert(address)

    def remove(self, address: int) -> None:
        self._process.remove(address)

    def share_processor(self) -> None:
        """It is not faster here."""

    def let_go(self) -> None:
        stub = self._process.stub
        with contextlib.suppress(JitunwindError):
            # A stub that cannot be interrupted is waited for: a breakpoint that is left would end the program.
            is_foreign = self._emulator is None and self.is_alive
            if is_foreign and (self.stop() or self._next(_STOP_SECONDS) is not None):
                for address in list(self._process.breakpoints):
                    self._process.remove(address)
                thread = self._process.thread.partition(".")[0]
                stub.ask(b"D;" + thread[1:].encode() if thread.startswith("p") else b"D")
        if self._emulator is not None:  # before the connection closes: it would run on
            self._emulator.kill()
            self._emulator.wait()
        stub.close()
        self.is_alive = False


def architecture_of(program: str, environment: Mapping[str, str]) -> Architecture | None:
    """That of the program that a command runs; None where that is not known: a script's, for one."""
    found = shutil.which(program, path=environment.get("PATH", os.defpath))
    try:
        header = _first_bytes(found) if found is not None else b""
    except OSError:
        return None
    if header[:6] != b"\x7fELF\x02\x01" or len(header) < 20:
        return None
    return of_machine(int.from_bytes(header[18:20], "little"))


def _first_bytes(path: str) -> bytes:
    with Path(path).open("rb") as file:
        return file.read(20)


def _connected(path: str, emulator: "subprocess.Popen[bytes]", program: str) -> Stub:
    """The stub of a qemu that has just been started."""
    end = time.monotonic() + _START_SECONDS
    while True:
        try:
            return Stub.connect(path)
        except NoStub:
            if emulator.poll() is not None:
                raise JitunwindError(
                    f"{program} cannot be run: qemu ended with {emulator.returncode}",
                    f"see what it says: qemu-aarch64 {program}",
                ) from None
            if time.monotonic() > end:
                raise
            time.sleep(0.005)


def _end_with(parent: int) -> None:
    """In the child: be ended, whatever ends the one who steps, which is the process `parent`."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended already
        os._exit(1)


def _number_here(number: int) -> int:
    """A signal's number on this system, from GDB's."""
    name = f"SIG{_GDB_SIGNALS[number - 1]}" if 0 < number <= len(_GDB_SIGNALS) else ""
    return int(getattr(signal, name, number)) & 0x7F
