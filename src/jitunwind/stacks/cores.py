"""A core file as a memory that stands still, with the registers of its threads."""

import signal
from pathlib import Path

from jitunwind.memory.core import (
    arguments_of,
    check_core,
    process_of,
    program_here,
    signal_of,
    threads_of,
)
from jitunwind.memory.corefile import CoreFile, CoreFiles
from jitunwind.stacks.images import Images
from jitunwind.stacks.loaded import libraries, mappings_of
from jitunwind.stacks.model import Death
from jitunwind.stacks.snapshot import Registers, registers_of


class Core(CoreFile):
    """The core at `path`, left by `program` (a path; None: not known)."""

    def __init__(self, path: Path, program: Path | None) -> None:
        super().__init__(path, program)
        self.program = None if program is None else str(program)
        self.command = arguments_of(path)
        self.signal = _death_of(path)
        self.registers: dict[int, Registers] = {}
        for tid, note in threads_of(path):
            self.registers.setdefault(tid, registers_of(note, self.architecture))
        self.pid = process_of(path) or next(iter(self.registers), 0)
        self._images = Images(self)
        if program is not None and all(each.path == str(program) for each in self.files.mappings):
            self._add_libraries()

    def _add_libraries(self) -> None:
        """Of a core that does not say what was mapped (qemu's): those that the loader lists."""
        begin = self.files.mappings[0].start if self.files.mappings else 0
        image = self._images.at(begin)
        if image is None:
            return
        found = [mapping for library in libraries(self, image) for mapping in mappings_of(library)]
        self.files = CoreFiles(self, [*self.files.mappings, *found], None)
        self.__dict__.pop("_mappings", None)
        self._images = Images(self)

    def __enter__(self) -> "Core":
        return self

    def symbol(self, name: str) -> int | None:
        return self._images.symbol(name)


def open_core(path: Path, program: str | None) -> Core:
    """BadCore; OSError."""
    check_core(path)
    return Core(path, program_here(path, program))


def _death_of(path: Path) -> Death | None:
    got = signal_of(path)
    if got is None:
        return None
    try:
        name = signal.Signals(got.number).name
    except ValueError:
        name = str(got.number)
    return Death(name, got.number, got.tid, got.code, got.address, got.sender)
