"""A core file as memory: what it stored, and from the files that the process had mapped what it left out.

The kernel leaves out what can be read from a file (core(5), coredump_filter): a program's code and constant
data. `explain` reads cores through this; GDB, in `bt` and `gdb`, does so by itself.
"""

import os
from bisect import bisect_right
from functools import cached_property
from pathlib import Path

from jitunwind.arch import Architecture
from jitunwind.errors import UnreadableMemory
from jitunwind.memory import Mapping, Memory
from jitunwind.memory.core import MappedFile, Segment, check_core, is_code, load_segments, mapped_files
from jitunwind.memory.process import dynamic_symbols


class CoreFile(Memory):
    """The process that left the core at `path`; `program` is where its program is on this machine (None: where
    the core says). BadCore, OSError."""

    def __init__(self, path: Path, program: Path | None) -> None:
        self._architecture = check_core(path)
        self._segments = sorted(load_segments(str(path)))
        self._mapped = mapped_files(path, program)
        self._open: dict[str, int] = {}
        self._core = os.open(path, os.O_RDONLY)

    def __enter__(self) -> "CoreFile":
        return self

    def __exit__(self, *exception: object) -> None:
        for file in (self._core, *self._open.values()):
            if file >= 0:
                os.close(file)

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
        index = bisect_right(self._segments, address, key=lambda segment: segment.start) - 1
        segment: Segment | None = self._segments[index] if index >= 0 else None
        if segment is not None and address < segment.start + segment.stored:
            within = address - segment.start
            return os.pread(self._core, min(size, segment.stored - within), segment.offset + within)
        file = self._file_at(address)
        if file is None:
            return b""
        if file.path not in self._open:
            self._open[file.path] = _opened(file.path)
        if self._open[file.path] < 0:
            return b""
        within = address - file.start
        return os.pread(self._open[file.path], min(size, file.end - address), file.offset + within)

    def _file_at(self, address: int) -> MappedFile | None:
        index = bisect_right(self._mapped, address, key=lambda file: file.start) - 1
        file = self._mapped[index] if index >= 0 else None
        return file if file is not None and address < file.end else None

    def mappings(self) -> list[Mapping]:
        return self._mappings

    @cached_property
    def _mappings(self) -> list[Mapping]:
        found = []
        for segment in self._segments:
            file = self._file_at(segment.start)
            found.append(Mapping(segment.start, segment.end, segment.executable, file.path if file else ""))
        for file in self._mapped:  # gcore leaves out whole segments
            index = bisect_right(self._segments, file.start, key=lambda segment: segment.start) - 1
            if index < 0 or self._segments[index].end <= file.start:
                found.append(Mapping(file.start, file.end, is_code(Path(file.path), file.offset), file.path))
        return sorted(found)

    def symbol(self, name: str) -> int | None:
        return self._symbols.get(name)

    def names(self) -> dict[int, str]:
        return {address: name for name, address in self._symbols.items()}

    @cached_property
    def _symbols(self) -> dict[str, int]:
        """The dynamic symbols of the program, which is mapped first, and of a libpython, if there is one."""
        begins: dict[str, int] = {}
        for file in self._mapped:
            begins.setdefault(file.path, file.start)
        symbols: dict[str, int] = {}
        for index, (path, base) in enumerate(begins.items()):
            likely = not index or os.path.basename(path).startswith("libpython")
            if likely and os.path.isfile(path):
                symbols = {**dynamic_symbols(Path(path), base), **symbols}
        return symbols


def _opened(path: str) -> int:
    """A descriptor of the regular file at `path`; -1 where there is none to be read."""
    try:
        if os.path.isfile(path):
            return os.open(path, os.O_RDONLY)
    except OSError:
        pass
    return -1
