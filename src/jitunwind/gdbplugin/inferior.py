"""The process that GDB looks at, live or a core, as a `Memory`."""

import os
import re
from bisect import bisect_right
from functools import cached_property

import gdb

from jitunwind.arch import Architecture
from jitunwind.errors import JitunwindError, UnreadableMemory
from jitunwind.memory import Mapping, Memory
from jitunwind.memory.maps import parse_maps
from jitunwind.rows import WORD

_PROC_LINE = re.compile(
    r"^\s*(0x[0-9a-f]+)\s+(0x[0-9a-f]+)\s+0x[0-9a-f]+\s+0x[0-9a-f]+\s+([rwxps-]{4})?\s*(.*)$"
)
OWN_FILES = "jit-code-"
"""What the names of the plugin's own symbol files begin with."""
_SECTION = re.compile(r"^\s*(0x[0-9a-f]+) - (0x[0-9a-f]+) is (\.\S+)(?: in (.*))?$", re.MULTILINE)
"""A line of `info files`; a core's own sections, load1 and so on, are passed over."""
_CODE = re.compile(r"\.(text|plt)\b.*|\.(init|fini)")
"""The names of sections of machine code."""
_PAGE = 4096
_MOST_UNMAPPED = 1 << 22
"""Bytes of a stack whose end is not known that are read."""
_CORE_FILE = re.compile(r"Core file:\s*`?([^\n]*?)'?, file type")


class Inferior(Memory):
    """GDB's selected inferior."""

    def __init__(self, inferior: gdb.Inferior, arch: Architecture) -> None:
        self._inferior = inferior
        self._architecture = arch
        self._mappings: list[Mapping] | None = None
        self._of_files_only = False
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

    @property
    def knows_anonymous(self) -> bool:
        self.mappings()
        return not self._of_files_only

    def can_read(self, address: int) -> bool:
        """Whether anything is mapped there."""
        try:
            return bool(self.checked_read(address, 1))
        except UnreadableMemory:
            return False

    def stack(self, stack_pointer: int, most: int) -> bytes:
        """The words from `stack_pointer` to the end of its stack, `most` bytes at most; none, where they cannot be
        read."""
        mapping = self.mapping_of(stack_pointer)
        try:
            if mapping is not None:
                return self.checked_read(stack_pointer, min(mapping.end - stack_pointer, most) & -WORD)
        except UnreadableMemory:
            return b""
        found = bytearray()
        if self.knows_anonymous:
            return b""
        while len(found) < min(most, _MOST_UNMAPPED):
            at = stack_pointer + len(found)
            try:
                found += self.checked_read(at, _PAGE - at % _PAGE)
            except UnreadableMemory:
                break
        return bytes(found)

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
                with open(f"/proc/{self._inferior.pid}/maps", errors="replace") as file:
                    return parse_maps(file.read())
            except OSError:
                pass
        mappings = self._of_gdb()
        self._of_files_only = not mappings
        return mappings or _of_sections()

    def _of_core(self, path: str) -> list[Mapping]:
        """A core's segments, those that files are mapped at named by GDB's account of its NT_FILE note, or, where
        it has none (qemu's), of the files that it has loaded."""
        from jitunwind.memory.core import load_segments  # with a process GDB starts faster without it

        files = [mapping for mapping in self._of_gdb() if mapping.path] or _of_sections()
        mappings = []
        try:
            segments = sorted(load_segments(path))
        except (OSError, JitunwindError):
            return files
        for segment in segments:
            mappings += _apart(Mapping(segment.start, segment.end, segment.executable, ""), files)
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


def _of_sections() -> list[Mapping]:
    """The files that GDB has loaded, by their sections: all that is known where a remote side does not tell its
    mappings (qemu's gdbstub before 8.1). It is asked nothing: each file begins at a page."""
    text = gdb.execute("info files", to_string=True)
    program = gdb.current_progspace().filename or ""
    found: list[Mapping] = []
    for match in _SECTION.finditer(text):
        start, end, name = int(match[1], 16), int(match[2], 16), match[3]
        path, executable = match[4] or program, _CODE.fullmatch(name) is not None
        if not path.startswith("/") or os.path.basename(path).startswith(OWN_FILES):
            continue  # JIT code, published or by this plugin
        begin = start & -_PAGE
        if found and found[-1].path == path and found[-1].end <= start:
            last = found[-1]
            if last.executable == executable and begin <= last.end + _PAGE:
                found[-1] = last._replace(end=end)
                continue
            if begin < last.end:  # both in one page
                begin = start
            found[-1] = last._replace(end=min(_page_end(last.end), begin))
        elif found:
            found[-1] = found[-1]._replace(end=_page_end(found[-1].end))
        found.append(Mapping(begin, end, executable, path))
    return sorted([*found[:-1], *(each._replace(end=_page_end(each.end)) for each in found[-1:])])


def _page_end(address: int) -> int:
    return (address + _PAGE - 1) & -_PAGE


def _apart(segment: Mapping, files: list[Mapping]) -> list[Mapping]:
    """A core's segment in parts: what files are mapped at there, and what lies between. qemu makes one segment of
    neighbours."""
    parts, at = [], segment.start
    for file in sorted(files):
        start, end = max(file.start, at), min(file.end, segment.end)
        if start < end:
            if at < start:
                parts.append(segment._replace(start=at, end=start))
            parts.append(segment._replace(start=start, end=end, path=file.path))
            at = end
    return [*parts, segment._replace(start=at)] if at < segment.end else parts


def is_core(inferior: gdb.Inferior) -> bool:
    """Whether it is a core, rather than a process."""
    connection = getattr(inferior, "connection", None)
    return connection is not None and connection.type == "core"


def _is_local(inferior: gdb.Inferior) -> bool:
    connection = getattr(inferior, "connection", None)
    return connection is not None and connection.type == "native" and inferior.pid > 0
