"""Files that a process behind a stub reads for us, by system calls that it is made to do: its mappings are in one.

A stub need not read files itself: qemu-user's does not before version 8.1. The process is left as it was found.
For AArch64's processes only.
"""

from typing import Protocol

from jitunwind.arch import Architecture
from jitunwind.arch.aarch64.registers import AARCH64, PC, SP
from jitunwind.errors import RemoteFailed, UnreadableMemory
from jitunwind.remote.protocol import Ended, Stopped, Stub

_CALLS = AARCH64.linux.calls
_AT_FDCWD = (1 << 64) - 100
_AT_BASE, _AT_ENTRY = 7, 9
_SEARCHED = 1 << 20
_ROOM = 1 << 14
"""Bytes below the stack pointer that are used, and put back: AAPCS64 has no red zone there."""
_LARGEST = 1 << 22
_SECONDS = 30.0
_MOST_SIGNALS = 64


class RunsThreads(Protocol):
    """A process behind a stub, as far as a request needs it: memory, registers, and control over a thread."""

    stub: Stub
    thread: str
    breakpoints: set[int]
    withheld: set[int]
    signals: dict[str, int]

    @property
    def architecture(self) -> Architecture: ...

    @property
    def auxiliary(self) -> dict[int, int]: ...

    def read(self, address: int, size: int) -> bytes: ...

    def write(self, address: int, data: bytes) -> None: ...

    def registers(self, thread: str) -> list[int]: ...

    def changed(self, thread: str, values: dict[str, int]) -> bytes: ...

    def set_all(self, thread: str, raw: bytes) -> None: ...

    def insert(self, address: int) -> None: ...

    def remove(self, address: int) -> None: ...

    def resume(self, thread: str, step: bool = False, signal: int = 0, others: bool = False) -> None: ...

    def wait(self, seconds: float | None) -> Stopped | Ended | None: ...


class Requester:
    """Reads files through the system calls of `process`, which stands still."""

    def __init__(self, process: RunsThreads) -> None:
        self._process = process
        self._svc = 0

    def file(self, path: str) -> bytes:
        """The contents of the file that the process finds at `path`. RemoteFailed where there is no way to it."""
        process = self._process
        if process.architecture is not AARCH64:
            raise RemoteFailed(
                "the stub does not say what is mapped in the process",
                "take gdbserver, or qemu-user 8.1 or later",
            )
        thread = process.thread
        before = process.changed(thread, {})
        room = process.registers(thread)[SP] - _ROOM & ~15
        name = path.encode() + b"\0"
        try:
            kept = process.read(room, len(name))
            process.write(room, name)
            try:
                return self._read(thread, room)
            finally:
                process.write(room, kept)
                process.set_all(thread, before)
        except UnreadableMemory:
            raise RemoteFailed("the process has no stack on which it could read a file") from None

    def _read(self, thread: str, room: int) -> bytes:
        descriptor = self._call(thread, room, _CALLS.openat, _AT_FDCWD, room, 0, 0)
        if descriptor < 0:
            raise RemoteFailed(f"the process cannot read its own mappings (error {-descriptor})")
        parts: list[bytes] = []
        size = 0
        while size < _LARGEST:
            got = self._call(thread, room, _CALLS.read, descriptor, room + 256, _ROOM - 256)
            if not 0 < got <= _ROOM - 256:
                break
            parts.append(self._process.read(room + 256, got))
            size += got
        self._call(thread, room, _CALLS.close, descriptor)
        return b"".join(parts)

    def _call(self, thread: str, room: int, number: int, *arguments: int) -> int:
        """The result of a system call, or the negative error number."""
        process = self._process
        at = self._instruction()
        back = at + len(_CALLS.instruction)
        # No flags: above all none that says that a jump has led here, which BTI asks a landing pad for.
        values = {"x8": number, "sp": room, "pc": at, "cpsr": 0}
        values |= {f"x{index}": value for index, value in enumerate(arguments)}
        process.set_all(thread, process.changed(thread, values))
        is_ours = back not in process.breakpoints
        process.insert(back)
        try:
            self._run(thread, back)
        finally:
            if is_ours:
                process.remove(back)
        result = process.registers(thread)[0]
        return result - (1 << 64) if result >> 63 else result

    def _run(self, thread: str, back: int) -> None:
        """Up to `back`. A signal that comes in between is delivered: its handler runs below the room."""
        process, signal = self._process, 0
        for _ in range(_MOST_SIGNALS):
            process.resume(thread, signal=signal)
            said = process.wait(_SECONDS)
            if said is None:
                raise RemoteFailed("the process does not come back from a system call")
            if not isinstance(said, Stopped):
                raise RemoteFailed("the process has ended in a system call")
            if said.thread == thread and process.registers(thread)[PC] == back:
                if said.signal not in process.withheld:
                    process.signals[thread] = said.signal
                return
            signal = said.signal
        raise RemoteFailed("the process does not come back from a system call")

    def _instruction(self) -> int:
        """Where the process has a system call's instruction: in its loader, or in itself."""
        if not self._svc:
            process = self._process
            start = process.auxiliary.get(_AT_BASE) or process.auxiliary.get(_AT_ENTRY, 0)
            step = 1 << 14
            for at in range(start & ~3, (start & ~3) + _SEARCHED, step):
                data = process.stub.read(at, step)
                found = -1
                while (found := data.find(_CALLS.instruction, found + 1)) >= 0:
                    if found % 4 == 0:
                        self._svc = at + found
                        return self._svc
                if len(data) < step:
                    break
            raise RemoteFailed("the process has no instruction by which to make a system call")
        return self._svc
