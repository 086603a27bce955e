"""Reading another process: one small interface, whatever lies behind it (a live process, a core, GDB)."""

import struct
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, NamedTuple

from jitunwind.errors import UnreadableMemory

if TYPE_CHECKING:  # who only asks for processes starts faster without it
    from jitunwind.arch import Architecture

ADDRESS_LIMIT = 1 << 64
_PAGE = 4096


class Mapping(NamedTuple):
    """One range [start, end) of the address space; `path` is empty for anonymous memory."""

    start: int
    end: int
    executable: bool
    path: str


class Memory(ABC):
    """A process's memory and what is mapped in it. The bytes are never trusted: each read is bounded."""

    @property
    @abstractmethod
    def architecture(self) -> "Architecture":
        """That of the process, which need not be this machine's."""

    @abstractmethod
    def read(self, address: int, size: int) -> bytes:
        """Exactly `size` bytes at `address`. UnreadableMemory where they are not all there."""

    @abstractmethod
    def mappings(self) -> list[Mapping]:
        """What is mapped now, by rising address."""

    @abstractmethod
    def symbol(self, name: str) -> int | None:
        """The address of a global symbol of the process; None where there is none."""

    @property
    def knows_anonymous(self) -> bool:
        """Whether `mappings` tells of anonymous memory; else only of what files are mapped at."""
        return True

    def places(self, mappings: Iterable[Mapping]) -> dict[str, str]:
        """Where the files behind some mappings are on this machine, by their paths; not those that are not to be
        had."""
        return {mapping.path: mapping.path for mapping in mappings}

    def names(self) -> dict[int, str]:
        """The global symbols of the program by address; none where they are not known."""
        return {}

    def as_now(self) -> "Memory | None":
        """The process's memory as it is now, where this one is a copy of before; else None."""
        return None

    def gathered(self) -> AbstractContextManager[None]:
        """While small pieces are read that lie side by side: what lies around may be read once, and be as it was
        then."""
        return nullcontext()

    def checked_read(self, address: int, size: int) -> bytes:
        """`read`, with addresses and sizes that cannot be refused before anyone is asked."""
        if not (
            0 < address < ADDRESS_LIMIT and 0 <= size <= _MOST_AT_ONCE and address + size <= ADDRESS_LIMIT
        ):
            raise UnreadableMemory(address, size)
        return self.read(address, size)

    def piece(self, address: int, size: int) -> tuple[int, bytes | memoryview]:
        """Where a readable piece of memory begins in which `address` lies, and its bytes, some `size` of them. Empty,
        where nothing can be read."""
        start = address - address % size
        for begin, end in (
            (start, start + size),
            (address - address % _PAGE, address - address % _PAGE + _PAGE),
        ):
            try:
                return begin, self.checked_read(begin, end - begin)
            except UnreadableMemory:
                continue
        return address, b""

    def word(self, address: int) -> int:
        return int.from_bytes(self.checked_read(address, 8), "little")

    def words(self, address: int, count: int) -> tuple[int, ...]:
        return struct.unpack(f"<{count}Q", self.checked_read(address, 8 * count))

    def cstring(self, address: int, limit: int = 256) -> str:
        """The NUL-terminated string at `address`, cut after `limit` bytes."""
        for size in (32, limit):
            try:
                data = self.checked_read(address, size)
            except UnreadableMemory:
                data = self.checked_read(address, min(size, 4096 - address % 4096))
            if b"\0" in data:
                break
        return data.partition(b"\0")[0].decode("utf-8", "replace")


_MOST_AT_ONCE = 1 << 30
