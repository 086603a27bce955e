"""A core file as a `Memory`, without a debugger: what the kernel or gcore has written, and the files that were
mapped for what they have left out. Who audits a core reads it by this."""

import os
from bisect import bisect_right
from functools import cached_property
from pathlib import Path
from struct import error

from elftools.common.exceptions import ELFError
from elftools.elf.constants import P_FLAGS
from elftools.elf.elffile import ELFFile

from jitunwind.elf.machine import Machine
from jitunwind.errors import BadCore, UnreadableMemory
from jitunwind.memory import Mapping, Memory
from jitunwind.memory.core import (
    MappedFile,
    can_have_left,
    check_core,
    load_segments,
    mapped_files,
    program_of,
)
from jitunwind.memory.process import dynamic_symbols


class CoreFile(Memory):
    """The core at `path`, left by the program `exe` (None: what the core itself says). BadCore."""

    def __init__(self, path: Path, exe: Path | None = None) -> None:
        check_core(path, Machine.X86_64)
        own, entry = program_of(path)
        program = exe or (Path(own) if own else None)
        if program is not None and not program.is_file():
            raise BadCore(f"{path} was left by {program}, which is not here", "name that program with --exe")
        if program is not None and not can_have_left(program, entry):
            raise BadCore(
                f"{path} was left by {own or 'another program'}, not by this {program}",
                "name the right one with --exe",
            )
        self._program = str(program)
        self._core = os.open(path, os.O_RDONLY)
        self._segments = sorted(load_segments(str(path)))
        self._files = sorted(
            file._replace(path=self._program) if file.path == own else file for file in mapped_files(path)
        )
        self._opened: dict[str, int | None] = {}

    def read(self, address: int, size: int) -> bytes:
        data = b""
        while len(data) < size:
            found = self._part(address + len(data), size - len(data))
            if not found:
                raise UnreadableMemory(address, size)
            data += found
        return data

    def _part(self, address: int, size: int) -> bytes:
        """The bytes from `address` on that one segment or file has."""
        index = bisect_right(self._segments, address, key=lambda segment: segment.start) - 1
        if index >= 0:
            segment = self._segments[index]
            stored = segment.start + segment.stored - address
            if stored > 0:
                return os.pread(self._core, min(size, stored), segment.offset + address - segment.start)
        index = bisect_right(self._files, address, key=lambda file: file.start) - 1
        if index >= 0 and address < self._files[index].end:
            file = self._files[index]
            opened = self._open(file.path)
            if opened is not None:
                return os.pread(opened, min(size, file.end - address), file.offset + address - file.start)
        return b""

    def _open(self, path: str) -> int | None:
        """A descriptor of the file; None where it is not to be had."""
        if path not in self._opened:
            try:
                self._opened[path] = os.open(path, os.O_RDONLY)
            except OSError:
                self._opened[path] = None
        return self._opened[path]

    def mappings(self) -> list[Mapping]:
        return self._mappings

    @cached_property
    def _mappings(self) -> list[Mapping]:
        """The core's segments, and the files' parts that are in none: gcore leaves out what nobody wrote to."""
        found = []
        for segment in self._segments:
            path = next((f.path for f in self._files if f.start < segment.end and segment.start < f.end), "")
            found.append(Mapping(segment.start, segment.end, segment.executable, path))
        starts = [segment.start for segment in self._segments]
        for file in self._files:
            index = bisect_right(starts, file.start) - 1
            if index < 0 or self._segments[index].end <= file.start:
                found.append(Mapping(file.start, file.end, self._is_code(file), file.path))
        return sorted(found)

    def _is_code(self, file: MappedFile) -> bool:
        """Whether the mapped part of an ELF file is one that its loader makes executable."""
        try:
            with open(file.path, "rb") as opened:
                segments = list(ELFFile(opened).iter_segments("PT_LOAD"))
        except (OSError, ELFError, error):
            return False
        end = file.offset + file.end - file.start
        return any(
            segment["p_flags"] & P_FLAGS.PF_X and file.offset <= segment["p_offset"] < end
            for segment in segments
        )

    def symbol(self, name: str) -> int | None:
        return self._symbols.get(name)

    @cached_property
    def _symbols(self) -> dict[str, int]:
        symbols: dict[str, int] = {}
        seen: set[str] = set()
        for file in self._files:  # by rising address: a file's first part comes first
            if file.path not in seen:
                seen.add(file.path)
                if file.path == self._program or Path(file.path).name.startswith("libpython"):
                    symbols = {**dynamic_symbols(Path(file.path), file.start), **symbols}
        return symbols
