"""The memory of a live process as it was at a moment, again and again: for who samples it.

In comes a process number. What is kept while a thread stands still is answered from that thread's copy until the next
`begin`; the rest from the process, which runs on. The mappings, and the files behind them, are those of the last
`renew`.
"""

import ctypes
import struct
from bisect import bisect_right, insort
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property

from jitunwind.arch import Architecture
from jitunwind.arch.known import native
from jitunwind.errors import NoSuchProcess, UnreadableMemory
from jitunwind.memory import Mapping, Memory
from jitunwind.memory.backing import LiveFiles
from jitunwind.memory.maps import parse_maps
from jitunwind.memory.procfiles import bytes_of
from jitunwind.stacks.images import Images
from jitunwind.stacks.seizing import Ranges, Reader, living_thread
from jitunwind.stacks.snapshot import mapping_in

_ARENA = 1 << 24
"""Bytes of copies that one moment may take, of all threads."""
_PAGE = 4096
_MOST_RANGES = 64
"""That are copied by one call; the kernel takes 1,024 (IOV_MAX)."""
_FORMATS = [f"<{count}Q" for count in range(2 * _MOST_RANGES + 1)]
_MOST_AGAIN = 4


class Copy:
    """What was kept of one thread."""

    def __init__(self, own: range) -> None:
        self.own = own
        self.starts: list[int] = []
        self.copies: dict[int, memoryview] = {}

    def worth_again(self) -> list[tuple[int, int]]:
        """What (address, size) was copied besides the thread's own stack, some of it at most."""
        return [(at, len(view)) for at, view in self.copies.items() if at not in self.own][:_MOST_AGAIN]


class Watched:
    """Memory (address, size) that is read again and again, all of it at once."""

    def __init__(self, reader: Reader, ranges: Sequence[tuple[int, int]]) -> None:
        self._reader, self._ranges = reader, Ranges(ranges)
        self.size = sum(size for _, size in ranges)
        self.flat = [number for extent in ranges for number in extent]
        self._buffer = bytearray(max(self.size, 1))
        self._view = memoryview(self._buffer)
        self._place = ctypes.addressof(ctypes.c_char.from_buffer(self._buffer))

    def now(self) -> bytes:
        """What lies in them, one behind the other; what cannot be read is left out, and all behind it."""
        return bytes(self._view[: self._reader.gathered(self._place, self._view, self._ranges)])


class Moments(Memory):
    """The memory of process `pid`. NoSuchProcess, NotPermitted."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.thread = living_thread(pid) or 0
        if not self.thread:
            raise NoSuchProcess(f"process {pid} has ended")
        self._reader = Reader(self.thread)
        self._arena = memoryview(bytearray(_ARENA))
        self._place = ctypes.addressof(ctypes.c_char.from_buffer(self._arena))
        self._used = 0
        self._ranges = bytearray(16 * _MOST_RANGES)
        self._ranges_place = ctypes.addressof(ctypes.c_char.from_buffer(self._ranges))
        self._copy = Copy(range(0))
        self._maps = b""
        self.mapped: list[Mapping] = []
        self.images = Images(self)
        self.has_ended = False
        """Whether the process had no memory any more when its mappings were read last."""
        self.live_reads = 0
        """How often something was read that was not kept."""
        self._files_have_changed = False
        self.renew()
        self._files_have_changed = False

    def close(self) -> None:
        self._reader.close()

    def renew(self) -> None:
        """Look at the mappings anew. If those of files' code have changed, `images` and `files` have, too."""
        maps = self._read_maps()
        if (
            not maps and (other := living_thread(self.pid)) is not None
        ):  # the one that it was asked by has ended
            self.thread = other
            maps = self._read_maps()
        self.has_ended = not maps
        if (
            not maps or maps == self._maps
        ):  # of a process that has ended, what was copied can be read all the same
            return
        before, self._maps = _code_of_files(self.mapped), maps
        self.mapped = parse_maps(maps.decode(errors="replace"))
        if _code_of_files(self.mapped) != before:
            self._files_have_changed = True
            self.images = Images(self)
            self.__dict__.pop("files", None)

    def files_have_changed(self) -> bool:
        """Whether `images` and `files` are others than when this was asked last."""
        changed, self._files_have_changed = self._files_have_changed, False
        return changed

    def _read_maps(self) -> bytes:
        with suppress(OSError):
            return bytes_of(f"/proc/{self.thread}/maps")
        return b""

    @property
    def program(self) -> Mapping | None:
        """The mapping with which the program begins: another one, if the process has run another program."""
        return next((each for each in self.mapped if each.path.startswith("/")), None)

    def is_there(self) -> bool:
        """Whether the process still has this memory: it has neither ended nor run another program, be it the same once
        more at the same addresses. /proc/PID/mem stays that of the memory for which it was opened (proc(5))."""
        program = self.program
        return program is not None and bool(self._reader.read(program.start, 1))

    def begin(self) -> None:
        """A new moment: what was kept is forgotten."""
        self._used = 0

    def new_copy(self, own: range) -> "Copy":
        """Where what is kept from now on belongs to, and what is answered from first: of another thread. `own`: the
        stack of that thread; what is not copied of it cannot be read, because it is another one now."""
        self._copy = Copy(own)
        return self._copy

    def show(self, copy: "Copy") -> None:
        """Answer from this copy of the same moment."""
        self._copy = copy

    # As a memory

    @property
    def architecture(self) -> Architecture:
        return native()

    def read(self, address: int, size: int) -> bytes:
        found = self.copy_around(address)
        if found is not None and address - found[0] + size <= len(found[1]):
            at = address - found[0]
            return bytes(found[1][at : at + size])
        if address in self._copy.own:
            raise UnreadableMemory(address, size)
        self.live_reads += 1
        data = self._reader.read(address, size)
        if len(data) != size:
            raise UnreadableMemory(address, size)
        return data

    def now(self, address: int, size: int) -> bytes:
        """What the process has there now; shorter, where it cannot be read."""
        return self._reader.read(address, size)

    def mappings(self) -> list[Mapping]:
        return self.mapped

    def symbol(self, name: str) -> int | None:
        return self.images.symbol(name)

    def piece(self, address: int, size: int) -> tuple[int, bytes | memoryview]:
        return self.copy_around(address) or super().piece(address, size)

    @cached_property
    def files(self) -> LiveFiles:
        """The files that it has mapped."""
        return LiveFiles(self.thread, self, self._maps.decode(errors="surrogateescape"))

    # What is kept

    def copy_around(self, address: int) -> tuple[int, memoryview] | None:
        """The copy in which `address` lies: where it begins, and its bytes."""
        starts = self._copy.starts
        index = bisect_right(starts, address) - 1
        if index < 0:
            return None
        start = starts[index]
        copy = self._copy.copies[start]
        return (start, copy) if address < start + len(copy) else None

    def keep(self, address: int, size: int) -> memoryview:
        """Copy memory now. UnreadableMemory, where not all of it is there, or there is no room."""
        known = self._copy.copies.get(address)
        if known is not None and len(known) >= size:
            return known[:size]
        view = self.keep_some(address, size)
        if len(view) != size:
            raise UnreadableMemory(address, size)
        return view

    def keep_some(self, address: int, size: int) -> memoryview:
        """The same, as far as it is there, and there is room."""
        size = max(0, min(size, _ARENA - self._used))
        view = self._arena[self._used : self._used + size]
        view = view[: self._reader.into(self._place + self._used, view, address)] if size else view
        self._used += -len(view) % 8 + len(view)
        self._add(address, view)
        return view

    def keep_together(self, ranges: Sequence[tuple[int, int]], watched: "Watched") -> bytes:
        """`keep_some` for these ranges (address, size), as far as each before is all there; and what is watched, as it
        is now. One call takes less time than one for each."""
        address, size = ranges[0]
        flat, total = [address, size, *watched.flat], size + watched.size
        for extent in ranges[1:]:
            flat += extent
            total += extent[1]
        at, count = self._used, len(flat)
        if at + total > _ARENA or count > 2 * _MOST_RANGES:
            got = -1
        else:
            struct.pack_into(_FORMATS[count], self._ranges, 0, *flat)
            got = self._reader.at_once(self._place + at, total, self._ranges_place, count // 2)
        marked = at + size + watched.size
        if at + got < marked:
            self.keep_some(address, size)
            return watched.now()
        arena, end = self._arena, at + got
        self._used = end + -end % 8
        self._add(address, arena[at : at + size])
        at = marked
        for address, size in ranges[1:]:
            if at + size > end:
                break
            self._add(address, arena[at : at + size])
            at += size
        return bytes(arena[marked - watched.size : marked])

    def _add(self, address: int, view: memoryview) -> None:
        known = self._copy.copies.get(address)
        if known is None:
            insort(self._copy.starts, address)
        if known is None or len(known) < len(view):
            self._copy.copies[address] = view

    def watched(self, ranges: Sequence[tuple[int, int]]) -> "Watched":
        """These ranges (address, size), to be read again and again."""
        return Watched(self._reader, ranges)

    def mapping_of(self, address: int) -> Mapping | None:
        """The mapping that `address` lies in."""
        return mapping_in(self.mapped, address)


def _code_of_files(mappings: Sequence[Mapping]) -> list[Mapping]:
    return [each for each in mappings if each.executable and each.path]
