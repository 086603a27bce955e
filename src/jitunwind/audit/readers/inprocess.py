"""The unwinders that work inside a process: libgcc, nongnu libunwind and LLVM's libunwind.

A helper process (`unwinders.c`) has the stack words and the tables of the process under audit at their own addresses,
and asks the unwinder there. So nothing that the unwinder does can harm that process, or this one.
"""

import os
import select
import struct
import subprocess
from collections.abc import Sequence

from jitunwind.arch import Architecture
from jitunwind.arch.x86_64.registers import X86_64
from jitunwind.audit.readers import Outcome, Table
from jitunwind.audit.readers.guarded import Guarded
from jitunwind.audit.records import Record
from jitunwind.errors import NoReader, ReaderFailed
from jitunwind.rows import WORD, Unknown

PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "unwinders")
LIBRARIES = {"libgcc": "libgcc_s.so.1", "libunwind": "libunwind.so.8", "llvm-libunwind": "libunwind.so.1"}
_PACKAGES = {"libgcc": "libgcc-s1", "libunwind": "libunwind8", "llvm-libunwind": "libunwind-19"}
"""Debian's."""
_CAME_OUT, _ENDED, _NO_MEMORY, _FAILED = range(4)
_PATIENCE = 3.0
"""Seconds that an answer may take: a walk takes microseconds."""
_MOST_STARTS = 8
"""Addresses are random: where something of the helper lies in the way, the next one is likely to do."""
_AT_ONCE = 64
"""Records in one request: requests and answers fit into the pipes, so that neither side waits for the other."""
_ANSWER = struct.Struct("=11Q")
"""status, error, lost, return address, CFA, six registers: `struct answer`."""


class InProcess:
    """A `Reader`, but that it is of no use any more when it has failed."""

    def __init__(self, name: str, arch: Architecture) -> None:
        if arch is not X86_64:
            raise NoReader(f"{name} can be asked about x86_64 code only")
        if not os.path.exists(PROGRAM):
            raise NoReader(f"{PROGRAM} is not there: it was not built when jitunwind was installed")
        self.name = name
        self._registers = arch.program_counter + 1
        self._sp, self._below = arch.stack_pointer, arch.red_zone
        self._start()
        self.version = self._loaded()

    def _start(self) -> None:
        self._tables: dict[Table, int] = {}
        self._inside: Sequence[tuple[int, int]] = ()
        self._readable: set[int] = set()
        command = [PROGRAM, self.name, LIBRARIES[self.name]]
        try:
            self._helper = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        except OSError as error:
            raise NoReader(
                f"{PROGRAM} cannot be run: {error.strerror}", "install jitunwind once more"
            ) from None
        try:
            is_there = self._result()
        except ReaderFailed:
            self.close()
            raise
        if not is_there:
            self.close()
            library = LIBRARIES[self.name]
            raise NoReader(
                f"{self.name} cannot be asked: there is no {library}, or it is of no use here",
                f"Debian's package is {_PACKAGES[self.name]}",
            )

    def _loaded(self) -> str:
        """The library's file, which has the version in its name or its package."""
        with open(f"/proc/{self._helper.pid}/maps") as file:
            paths = {line.split(maxsplit=5)[5].strip() for line in file if "/" in line}
        stem = LIBRARIES[self.name].partition(".")[0]
        return next((path for path in sorted(paths) if os.path.basename(path).startswith(stem)), "")

    def close(self) -> None:
        self._helper.kill()
        self._helper.communicate()

    # Requests

    def _send(self, data: bytes) -> None:
        assert self._helper.stdin is not None
        view = memoryview(data)
        try:
            while view:
                view = view[self._helper.stdin.write(view) or 0 :]
        except BrokenPipeError:
            raise ReaderFailed(f"{self.name} has crashed") from None

    def _receive(self, size: int) -> bytes:
        assert self._helper.stdout is not None
        data = b""
        while len(data) < size:
            ready, _, _ = select.select([self._helper.stdout], [], [], _PATIENCE)
            if not ready:
                raise ReaderFailed(f"{self.name} has not come to an end in {_PATIENCE:.0f} s")
            got = self._helper.stdout.read(size - len(data))
            if not got:
                raise ReaderFailed(f"{self.name} has crashed")
            data += got
        return data

    def _result(self) -> int:
        value: int = struct.unpack("=Q", self._receive(WORD))[0]
        return value

    def _request(self, kind: bytes, words: Sequence[int], data: bytes = b"") -> int:
        self._send(kind.ljust(WORD) + struct.pack(f"={len(words)}Q", *words) + data)
        return self._result()

    # Tables

    def tell(self, tables: Sequence[Table], inside: Sequence[tuple[int, int]]) -> None:
        for _ in range(_MOST_STARTS):
            if self._tell(tables, inside):
                return
            self.close()
            self._start()
        raise ReaderFailed(f"{self.name}'s helper process has no room at the addresses of the tables")

    def _tell(self, tables: Sequence[Table], inside: Sequence[tuple[int, int]]) -> bool:
        """False where something of the helper's own is in the way."""
        wanted = dict.fromkeys(tables)
        for table in self._tables.keys() - wanted.keys():
            self._request(b"d", [self._tables.pop(table)])
        for table in wanted.keys() - self._tables.keys():
            handle = self._register(table)
            if not handle:
                return False
            self._tables[table] = handle
        if inside != self._inside:
            self._request(b"i", [len(inside), *(word for each in inside for word in each)])
            self._inside = inside
        return True

    def _register(self, table: Table) -> int:
        start = min(begin for begin, _, _ in table.fdes)
        end = max(begin + size for begin, size, _ in table.fdes)
        entries = b"".join(struct.pack("=ii", begin - start, offset) for begin, _, offset in table.fdes)
        data = table.data + struct.pack("=Q", len(table.fdes)) + entries
        return self._request(b"t", [table.address, start, end, len(table.data)], data)

    # States

    def ask(
        self, records: Sequence[Record], back: int, memory: Sequence[tuple[int, bytes]]
    ) -> list[Outcome | Unknown]:
        outcomes: list[Outcome | Unknown] = []
        for at in range(0, len(records), _AT_ONCE):
            outcomes += self._ask(records[at : at + _AT_ONCE], back, memory)
        return outcomes

    def _ask(
        self, records: Sequence[Record], back: int, memory: Sequence[tuple[int, bytes]]
    ) -> list[Outcome | Unknown]:
        if back not in self._readable:
            # Unwinders look for a signal's return there. What the helper itself has there is as good.
            self._request(b"m", [back & -WORD, 2 * WORD], bytes(2 * WORD))
            self._readable.add(back)
        for address, data in memory:
            self._request(b"m", [address, len(data)], data)
        request = [b"a".ljust(WORD), struct.pack("=Q", len(records))]
        for record in records:
            registers, words = record[: self._registers], record[self._registers :]
            request.append(
                struct.pack(
                    f"={len(record) + 2}Q", *registers, registers[self._sp] - self._below, len(words), *words
                )
            )
        self._send(b"".join(request))
        answers = self._receive(_ANSWER.size * len(records))
        return [self._outcome(*answer) for answer in _ANSWER.iter_unpack(answers)]

    def _outcome(
        self, status: int, error: int, lost: int, back: int, cfa: int, *registers: int
    ) -> Outcome | Unknown:
        if status == _CAME_OUT and not lost:
            return Outcome(cfa, back, registers)
        if status == _CAME_OUT or (status == _NO_MEMORY and back):
            kept = (None if lost >> i & 1 else value for i, value in enumerate(registers))
            return Outcome(cfa, back, tuple(kept))
        if status == _FAILED:
            return Unknown(f"{self.name} fails with error {error - (error >> 63 << 64)}")
        return Unknown(f"{self.name} {_ENDINGS[status]}")


_ENDINGS = {
    _ENDED: "ends the walk in JIT code",
    _NO_MEMORY: "reads memory that there cannot be",
}


def open_reader(name: str, arch: Architecture) -> Guarded:
    """A `Reader`. NoReader."""
    return Guarded(lambda: InProcess(name, arch))
