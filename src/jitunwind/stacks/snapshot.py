"""A live process as it was at one moment: registers and stacks of its threads, copied while it stood still.

In comes a process number, out goes a `Snapshot`: a `Memory` that answers from the copies first, and from the process,
which runs on, for what does not change (code of files, objects that are only read). What else must be copied during
the stop says `during`, which the caller gives: it reads through the snapshot, and what it reads is kept.
"""

import ctypes
import re
from bisect import bisect_right, insort
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cached_property
from struct import Struct
from typing import NamedTuple

from jitunwind.arch import Architecture
from jitunwind.arch.known import module, native
from jitunwind.errors import NoSuchProcess, UnreadableMemory
from jitunwind.memory import ADDRESS_LIMIT, Mapping, Memory
from jitunwind.memory.backing import LiveFiles
from jitunwind.memory.maps import parse_maps
from jitunwind.memory.procfiles import bytes_of, text_of
from jitunwind.stacks.images import Images
from jitunwind.stacks.seizing import Reader, Stop, living_thread, thread_ids, with_threads_stopped

_PAGE = 4096
_FIRST_ARENA = 1 << 20
_ARENA_PER_THREAD = 1 << 16
"""Bytes of memory that are ready before the stop: the first use of a page takes longer than to copy into it."""
_LARGEST_EXPECTED = 1 << 25
_LARGEST_STACK = 1 << 26
_LARGEST_IN_ALL = 1 << 28
"""Bytes of stacks that are copied."""
_PIECE = 1 << 20
_ALL_JIT_CODE = 1 << 22
"""Bytes of anonymous executable memory up to which all is copied; else only what lies about the stacks' addresses."""
_BEFORE, _BEHIND = 1 << 20, 1 << 16
"""Bytes before and behind such an address that are copied: CPython's largest region, and what an instruction needs."""
_MOST_JIT_CODE = 1 << 26
_word = Struct("<Q").unpack_from


class Registers(NamedTuple):
    """Of a thread that stands still: by DWARF number, and where its own data lie, which is on top of its stack (0: not
    known)."""

    values: dict[int, int]
    thread_pointer: int


def registers_of(note: bytes, arch: Architecture) -> Registers:
    """What a note NT_PRSTATUS says, without what stands before the registers in a core's. ValueError, if it is cut."""
    state = module(arch, "state")
    if len(note) < state.GENERAL_SIZE:
        raise ValueError(f"{len(note)} bytes of registers")
    words = [_word(note, offset)[0] for offset in range(0, state.GENERAL_SIZE, 8)]
    values = {register: words[place] for register, place in enumerate(state.GENERAL)}
    return Registers(values, 0 if state.THREAD_POINTER is None else words[state.THREAD_POINTER])


class Snapshot(Memory):
    """The memory of process `pid`: what was copied as it was then, the rest as it is now."""

    def __init__(self, pid: int) -> None:
        thread = living_thread(pid)
        if thread is None:
            raise NoSuchProcess(f"process {pid} has ended")
        self.pid = pid
        self.thread = thread
        """One through which the process can be looked into: it may have no main thread any more."""
        self.registers: dict[int, Registers] = {}
        self.missing: dict[int, str] = {}
        """Why the threads that are not in `registers` did not stop."""
        self.stopped_seconds = 0.0
        self._reader = Reader(thread)
        self._maps = self._read_maps()
        self._mappings = parse_maps(self._maps.decode(errors="replace"))
        self._images = Images(self)
        self._starts: list[int] = []
        self._copies: dict[int, memoryview] = {}
        self._keeps = False
        self._copied = 0
        self.thread_names = {tid: comm(pid, tid) for tid in thread_ids(pid)}
        """What the threads are called."""
        self._new_arena(self._expected(len(self.thread_names)))

    def __enter__(self) -> "Snapshot":
        return self

    def __exit__(self, *exception: object) -> None:
        self._reader.close()

    # As a memory

    @property
    def architecture(self) -> Architecture:
        return native()

    def read(self, address: int, size: int) -> bytes:
        copy = self.copied(address, size)
        if copy is not None:
            return bytes(copy)
        if self._keeps:
            return bytes(self.keep(address, size))
        data = self._reader.read(address, size)
        if len(data) != size:
            raise UnreadableMemory(address, size)
        return data

    def is_unchanged(self, address: int, size: int) -> bool:
        """Whether the process has the same bytes at `address` still, where they were copied."""
        copy = self.copied(address, size)
        return copy is None or self._reader.read(address, size) == copy

    def as_now(self) -> Memory:
        return _Now(self, self._reader)

    def is_there(self) -> bool:
        """Whether the process still has the memory that was looked at: it has not ended, or run another program."""
        program = next((each for each in self._mappings if each.path.startswith("/")), None)
        return program is not None and bool(self._reader.read(program.start, 1))

    def mappings(self) -> list[Mapping]:
        return self._mappings

    def places(self, mappings: Iterable[Mapping]) -> dict[str, str]:
        return self.files.places(mapping.start for mapping in mappings)

    def symbol(self, name: str) -> int | None:
        return self._images.symbol(name)

    @cached_property
    def files(self) -> LiveFiles:
        """The files that it had mapped."""
        return LiveFiles(self.thread, self, self._maps.decode(errors="surrogateescape"))

    # What was copied

    def copied(self, address: int, size: int) -> memoryview | None:
        """The bytes at `address` as they were during the stop; None, where they were not copied."""
        index = bisect_right(self._starts, address) - 1
        if index < 0:
            return None
        start = self._starts[index]
        copy = self._copies[start]
        within = address - start
        return copy[within : within + size] if within + size <= len(copy) else None

    def piece(self, address: int, size: int) -> tuple[int, bytes | memoryview]:
        return self.copy_around(address) or super().piece(address, size)

    def copy_around(self, address: int) -> tuple[int, memoryview] | None:
        """The copy in which `address` lies: where it begins, and its bytes."""
        index = bisect_right(self._starts, address) - 1
        if index < 0:
            return None
        start = self._starts[index]
        copy = self._copies[start]
        return (start, copy) if address < start + len(copy) else None

    def keep(self, address: int, size: int) -> memoryview:
        """Copy memory now. UnreadableMemory, where not all of it is there."""
        view = self._copy(address, size)
        if len(view) != size:
            raise UnreadableMemory(address, size)
        return view

    def _copy(self, address: int, size: int) -> memoryview:
        """The same, as far as it is there."""
        if self._used + size > len(self._arena):
            self._new_arena(max(size, _FIRST_ARENA))
        view = self._arena[self._used : self._used + size]
        got = self._reader.into(self._place + self._used, view, address)
        view = view[:got]
        if got:
            self._used += got
            if address not in self._copies:
                insort(self._starts, address)
            if address not in self._copies or len(self._copies[address]) < got:
                self._copies[address] = view
        return view

    def _expected(self, threads: int) -> int:
        """Bytes that the stop will copy: the main thread's stack, which is mapped as far as it was ever used, some of
        each other's, and JIT code."""
        code = _size_of(self._code_of_no_file())
        stack = _size_of([each for each in self._mappings if each.path == "[stack]"])
        known = min(stack, _LARGEST_EXPECTED) + (code if code <= _ALL_JIT_CODE else 0)
        return _FIRST_ARENA + _ARENA_PER_THREAD * threads + known

    def _new_arena(self, size: int) -> None:
        memory = bytearray(size)
        memory[::_PAGE] = b"\1" * len(range(0, size, _PAGE))  # its pages are there now
        self._arena, self._used = memoryview(memory), 0
        self._place = ctypes.addressof(ctypes.c_char.from_buffer(memory))

    # The stop

    def take(self, during: Callable[["Snapshot"], None]) -> None:
        """Stop the process, copy, and let it go. `during` reads what it needs besides, within the stop.

        NoSuchProcess, AlreadyTraced, NotPermitted.
        """
        stop = with_threads_stopped(self.pid, lambda stop: self._at_stop(stop, during))
        self.missing, self.stopped_seconds = stop.missing, stop.seconds
        if not self.registers and not self.missing:
            raise NoSuchProcess(f"process {self.pid} has ended while its stacks were being read")

    def _at_stop(self, stop: Stop, during: Callable[["Snapshot"], None]) -> None:
        maps = self._read_maps()
        if maps and maps != self._maps:
            self._maps = maps
            self._mappings = parse_maps(maps.decode(errors="replace"))
        stacks = []
        for tid, note in stop.registers.items():
            if tid not in self.thread_names:  # it has been started since, and may end at once
                self.thread_names[tid] = comm(self.pid, tid)
            self.registers[tid] = registers_of(note, self.architecture)
            stacks += self._copy_stacks(self.registers[tid], tid)
        self._keeps = True
        try:
            during(self)
        finally:
            self._keeps = False
        self._copy_jit_code(stacks)

    def _read_maps(self) -> bytes:
        try:
            return bytes_of(f"/proc/{self.thread}/maps")
        except OSError:
            return b""

    def mapping_of(self, address: int) -> Mapping | None:
        """The mapping that `address` lies in."""
        return mapping_in(self._mappings, address)

    def _copy_stacks(self, registers: Registers, tid: int) -> list[memoryview]:
        """From the stack pointer to the end of the stack; and where that is an alternate stack for signal handlers, of
        the thread's own, too, from the lowest address on that the alternate one leads to."""
        arch = self.architecture
        pointer, own = registers.values[arch.stack_pointer], self._own_stack(registers, tid)
        if own is not None and own.start <= pointer < own.end:
            return self._copy_stack(pointer - arch.red_zone, own.end)
        copies = self._copy_stack(pointer - arch.red_zone)
        if own is not None:
            inside = [word for copy in copies for (word,) in _words(copy) if own.start <= word < own.end]
            copies += self._copy_stack(min(inside) - arch.red_zone, own.end) if inside else []
        return copies

    def _own_stack(self, registers: Registers, tid: int) -> Mapping | None:
        """Where the thread's stack lies, wherever its stack pointer is: below its own data, in a mapping that may have
        other threads' stacks, too (glibc 2.42 has no mapping of its own for the guard between them)."""
        if tid == self.pid:
            return next((each for each in self._mappings if each.path == "[stack]"), None)
        pointer = registers.thread_pointer
        mapping = self.mapping_of(pointer) if pointer else None
        return None if mapping is None else mapping._replace(end=pointer & -8)

    def _copy_stack(self, start: int, end: int = ADDRESS_LIMIT) -> list[memoryview]:
        """What is used of a stack, in pieces: it may end before its mapping does, at a guard."""
        mapping = self.mapping_of(start) or self.mapping_of(start + _PAGE)
        if mapping is None:
            return []
        at, copies = max(start, mapping.start) & -8, list[memoryview]()
        end = min(end, mapping.end, at + min(_LARGEST_STACK, _LARGEST_IN_ALL - self._copied))
        while at < end:
            size = min(_PIECE - at % _PIECE, end - at)
            copies.append(self._copy(at, size))
            self._copied += len(copies[-1])
            at += size
            if len(copies[-1]) < size:
                break
        return copies

    def _copy_jit_code(self, stacks: Sequence[memoryview]) -> None:
        """Code that is in no file may be freed as soon as the process goes on."""
        ranges = self._code_of_no_file()
        if _size_of(ranges) > _ALL_JIT_CODE:
            ranges = self._about_addresses(ranges, stacks)
        left = _MOST_JIT_CODE
        for each in ranges:
            left -= each.end - each.start
            if left >= 0:
                self._copy(each.start, each.end - each.start)

    def _code_of_no_file(self) -> list[Mapping]:
        return [each for each in self._mappings if each.executable and not each.path]

    def _about_addresses(self, ranges: Sequence[Mapping], stacks: Sequence[memoryview]) -> list[Mapping]:
        """The parts of `ranges` that the threads' program counters and the words on their stacks lead to."""
        pc = self.architecture.program_counter
        found = {registers.values[pc] for registers in self.registers.values()}
        for prefix in {address >> 24 for each in ranges for address in (each.start, each.end - 1)}:
            pattern = re.compile(rb"(?s:...)" + re.escape(prefix.to_bytes(5, "little")))
            for stack in stacks:
                found |= {
                    _word(stack, match.start())[0]
                    for match in pattern.finditer(stack)
                    if match.start() % 8 == 0
                }
        parts: list[Mapping] = []
        for address in sorted(found):
            mapping = mapping_in(ranges, address)
            if mapping is None:
                continue
            start, end = max(mapping.start, address - _BEFORE), min(mapping.end, address + _BEHIND)
            if parts and start <= parts[-1].end:
                parts[-1] = parts[-1]._replace(end=max(end, parts[-1].end))
            else:
                parts.append(mapping._replace(start=start, end=end))
        return parts


class _Now(Memory):
    """What a process that was copied has in its memory now."""

    def __init__(self, copied: Snapshot, reader: Reader) -> None:
        self._copied, self._reader = copied, reader

    @property
    def architecture(self) -> Architecture:
        return self._copied.architecture

    def read(self, address: int, size: int) -> bytes:
        data = self._reader.read(address, size)
        if len(data) != size:
            raise UnreadableMemory(address, size)
        return data

    def mappings(self) -> list[Mapping]:
        return self._copied.mappings()

    def symbol(self, name: str) -> int | None:
        return self._copied.symbol(name)


def _size_of(mappings: Sequence[Mapping]) -> int:
    return sum(each.end - each.start for each in mappings)


def comm(pid: int, tid: int) -> str:
    """What a thread is called (proc(5), comm); empty, where it has gone."""
    with suppress(OSError):
        return text_of(f"/proc/{pid}/task/{tid}/comm").rstrip("\n")
    return ""


def mapping_in(mappings: Sequence[Mapping], address: int) -> Mapping | None:
    """The one of `mappings`, by rising address, that `address` lies in."""
    index = bisect_right(mappings, address, key=_start) - 1
    return mappings[index] if index >= 0 and address < mappings[index].end else None


def _start(mapping: Mapping) -> int:
    return mapping.start


def _words(stack: memoryview) -> "list[tuple[int]]":
    return list(Struct("<Q").iter_unpack(stack[: len(stack) & -8]))
