"""The process that GDB looks at, live or a core, as a `Memory`."""

import re
from bisect import bisect_right
from functools import cached_property
from pathlib import Path

import gdb

from jitunwind.arch import Architecture
from jitunwind.errors import JitunwindError, UnreadableMemory
from jitunwind.memory import Mapping, Memory
from jitunwind.memory.core import load_segments
from jitunwind.memory.maps import parse_maps

_PROC_LINE = re.compile(
    r"^\s*(0x[0-9a-f]+)\s+(0x[0-9a-f]+)\s+0x[0-9a-f]+\s+0x[0-9a-f]+\s+([rwxps-]{4})?\s*(.*)$"
)
_CORE_FILE = re.compile(r"Core file:\s*`?([^\n]*?)'?, file type")


class Inferior(Memory):
    """GDB's selected inferior."""

    def __init__(self, inferior: gdb.Inferior, arch: Architecture) -> None:
        self._inferior = inferior
        self._architecture = arch
        self._mappings: list[Mapping] | None = None
        self._bases: dict[str, int] | None = None

    def forget(self) -> None:
        """The process has run."""
        self._mappings = None
        self._bases = None

    @property
    def architecture(self) -> Architecture:
        return self._architecture

    def read(self, address: int, size: int) -> bytes:
        try:
            return bytes(self._inferior.read_memory(address, size))
        except (gdb.error, OverflowError, ValueError, MemoryError):
            raise UnreadableMemory(address, size) from None

    def symbol(self, name: str) -> int | None:
        try:
            return int(gdb.parse_and_eval(f"(unsigned long)&'{name}'"))
        except gdb.error:
            return None

    @cached_property
    def core_file(self) -> str | None:
        """The path of the core that GDB looks at; None for a live process."""
        if not self._inferior.is_valid() or not is_core(self._inferior):
            return None
        found = _CORE_FILE.search(gdb.execute("maintenance info sections", to_string=True))
        return found[1] if found else None

    def mappings(self) -> list[Mapping]:
        if self._mappings is None:
            self._mappings = self._read_mappings()
        return self._mappings

    def mapping_of(self, address: int) -> Mapping | None:
        """The mapping that `address` lies in."""
        mappings = self.mappings()
        index = bisect_right(mappings, address, key=lambda mapping: mapping.start) - 1
        return mappings[index] if index >= 0 and address < mappings[index].end else None

    def bases(self) -> dict[str, int]:
        """Where each mapped file begins."""
        if self._bases is None:
            self._bases = {}
            for mapping in self.mappings():
                if mapping.path:
                    self._bases.setdefault(mapping.path, mapping.start)
        return self._bases

    def _read_mappings(self) -> list[Mapping]:
        if self.core_file is not None:
            return self._of_core(self.core_file)
        if _is_local(self._inferior):
            try:
                return parse_maps(Path(f"/proc/{self._inferior.pid}/maps").read_text(errors="replace"))
            except OSError:
                pass
        return self._of_gdb()

    def _of_core(self, path: str) -> list[Mapping]:
        """A core's segments, those that files are mapped at named by GDB's account of its NT_FILE note."""
        files = [mapping for mapping in self._of_gdb() if mapping.path]
        mappings = []
        try:
            segments = sorted(load_segments(path))
        except (OSError, JitunwindError):
            return files
        for segment in segments:
            of_file = next((m.path for m in files if m.start < segment.end and segment.start < m.end), "")
            mappings.append(Mapping(segment.start, segment.end, segment.executable, of_file))
        starts = [segment.start for segment in segments]
        for file in files:  # gcore leaves out what nobody has written to
            index = bisect_right(starts, file.start) - 1
            if index < 0 or segments[index].end <= file.start:
                mappings.append(file)
        return sorted(mappings)

    def _of_gdb(self) -> list[Mapping]:
        """As `info proc mappings` lists them: of a remote process, or a core's files. Its permissions may be
        missing (GDB before 12, and cores): then all counts as executable."""
        try:
            text = gdb.execute("info proc mappings", to_string=True)
        except gdb.error:
            return []
        found = filter(None, (_PROC_LINE.match(line) for line in text.splitlines()))
        return [
            Mapping(int(m[1], 16), int(m[2], 16), m[3] is None or "x" in m[3], m[4].strip()) for m in found
        ]


def is_core(inferior: gdb.Inferior) -> bool:
    """Whether it is a core, rather than a process."""
    connection = getattr(inferior, "connection", None)
    return connection is not None and connection.type == "core"


def _is_local(inferior: gdb.Inferior) -> bool:
    connection = getattr(inferior, "connection", None)
    return connection is not None and connection.type == "native" and inferior.pid > 0
