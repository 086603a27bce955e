"""A core file as memory: what it stored, and from the files that the process had mapped what it left out.

The kernel leaves out what can be read from a file (core(5), coredump_filter): a program's code and constant
data. `explain` reads cores through this; GDB, in `bt` and `gdb`, does so by itself. A file that is another one than
the process had mapped, by its build-id, is not read, and `files.warnings` names it.
"""

import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

from jitunwind.arch import Architecture
from jitunwind.errors import UnreadableMemory
from jitunwind.memory import Mapping, Memory
from jitunwind.memory.backing import BackingFiles, OpenFile, exported_symbols, open_file
from jitunwind.memory.core import (
    Segment,
    check_core,
    holds_stacks,
    is_code,
    load_segments,
    mapped_files,
    program_of,
)
from jitunwind.memory.maps import FileMapping

_BY_BUILD_ID = "/usr/lib/.build-id"
"""Where Fedora has links to programs and libraries by their build-ids."""


class CoreFile(Memory):
    """The process that left the core at `path`. `program` is where its program is on this machine (None: where the
    core says), `sysroot` the folder below which its other files are (None: the root). BadCore, OSError."""

    def __init__(self, path: Path, program: Path | None, sysroot: Path | None = None) -> None:
        self._architecture = check_core(path)
        self._segments = sorted(load_segments(str(path)))
        self._program = str(program) if program is not None else program_of(path).path
        self._core = os.open(path, os.O_RDONLY)
        self.files = CoreFiles(self, self._file_mappings(path, program), sysroot)
        self.has_stacks = holds_stacks(path)
        """Whether it stored the process's own memory. Without, what a file holds for writable memory is what that
        was when the process began."""

    def _file_mappings(self, path: Path, program: Path | None) -> list[FileMapping]:
        found = []
        for file in mapped_files(path, program):
            segment = self._segment(file.start)
            executable = is_code(Path(file.path), file.offset) if segment is None else segment.executable
            found.append(FileMapping(file.start, file.end, file.offset, executable, file.path))
        return found

    def __enter__(self) -> "CoreFile":
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._core)

    @property
    def architecture(self) -> Architecture:
        return self._architecture

    def read(self, address: int, size: int) -> bytes:
        parts, at = [], address
        while at < address + size:
            part = self._piece(at, address + size - at)
            if not part:
                raise UnreadableMemory(address, size)
            parts.append(part)
            at += len(part)
        return b"".join(parts)

    def _piece(self, address: int, size: int) -> bytes:
        """Some of the bytes at `address`, as far as one segment or file has them."""
        stored = self.stored(address, size)
        if stored:
            return stored
        segment = self._segment(address)
        if segment is not None and segment.writable and not self.has_stacks:
            return b""
        return self.files.read(address, size)

    def stored(self, address: int, size: int) -> bytes:
        """What the core itself has at `address`: up to `size` bytes, as far as one segment reaches; empty, where it
        left them out."""
        segment = self._segment(address)
        if segment is None or address >= segment.start + segment.stored:
            return b""
        within = address - segment.start
        return os.pread(self._core, min(size, segment.stored - within), segment.offset + within)

    def _segment(self, address: int) -> Segment | None:
        index = bisect_right(self._segments, address, key=lambda segment: segment.start) - 1
        segment = self._segments[index] if index >= 0 else None
        return segment if segment is not None and address < segment.end else None

    def mappings(self) -> list[Mapping]:
        return self._mappings

    @cached_property
    def _mappings(self) -> list[Mapping]:
        found = []
        for segment in self._segments:
            file = self.files.mapping_of(segment.start)
            found.append(Mapping(segment.start, segment.end, segment.executable, file.path if file else ""))
        for file in self.files.mappings:  # gcore leaves out whole segments
            if self._segment(file.start) is None:
                found.append(Mapping(file.start, file.end, file.executable, file.path))
        return sorted(found)

    def places(self, mappings: Iterable[Mapping]) -> dict[str, str]:
        return self.files.places(mapping.start for mapping in mappings)

    def symbol(self, name: str) -> int | None:
        return self._symbols.get(name)

    def names(self) -> dict[int, str]:
        return {address: name for name, address in self._symbols.items()}

    @cached_property
    def _symbols(self) -> dict[str, int]:
        """The dynamic symbols of the program and of a libpython, if there is one."""
        return exported_symbols(self.files, self._program)


class CoreFiles(BackingFiles):
    """The files of the process that left a core, as they are on this machine."""

    def __init__(self, core: CoreFile, mappings: list[FileMapping], sysroot: Path | None) -> None:
        super().__init__(core, mappings)
        self._core, self._sysroot = core, sysroot

    @property
    def root(self) -> str:
        return str(self._sysroot) if self._sysroot is not None else ""

    def _candidates(self, mapping: FileMapping) -> Iterator[OpenFile]:
        places = [mapping.path]
        if self._sysroot is not None:
            places.insert(0, f"{self._sysroot}{mapping.path}")
        build_id = self._build_id(mapping)
        if build_id:
            places.append(f"{_BY_BUILD_ID}/{build_id[:2]}/{build_id[2:]}")
        for place in places:
            descriptor = open_file(place)
            if descriptor >= 0:
                yield OpenFile(descriptor, place)

    def _is_same(self, mapping: FileMapping, opened: OpenFile, status: os.stat_result) -> bool:
        return False

    def _is_believed_unchecked(self) -> bool:
        return True

    def _in_memory(self, address: int, size: int) -> bytes:
        return self._core.stored(address, size)
