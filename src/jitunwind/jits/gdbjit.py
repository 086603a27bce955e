"""Code that a process has registered through GDB's JIT interface, as LLVM, numba and others do.

The objects' symbols tell the functions, their `.eh_frame` how each is entered, their `.debug_line` the lines. Nothing
is read before something is asked: most program counters are not in such code.
"""

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from jitunwind.elf.sections import Function, functions, sections
from jitunwind.errors import MalformedFrames, NotElf, UnreadableMemory
from jitunwind.jits import Code, entry_row
from jitunwind.jits.mangled import plain_name
from jitunwind.jits.ranges import code_ranges, range_around
from jitunwind.jits.registered import Entry, JitInterface
from jitunwind.memory import Mapping, Memory
from jitunwind.region import Line, Region
from jitunwind.rows import UnwindTable

LARGEST_FUNCTION = 1 << 24
"""Bytes of one function."""


class _Registered(NamedTuple):
    """A function, and the object that it is of."""

    function: Function
    entry: Entry


class GdbJit:
    """What the process in `memory` has registered. Functions whose names begin with one of `others` are left out:
    another JIT describes them better."""

    name = "GDB's JIT interface"

    def __init__(self, memory: Memory, others: tuple[str, ...] = ()) -> None:
        self.memory, self.arch = memory, memory.architecture
        self.warnings: list[str] = []
        self.ranges = code_ranges(memory)
        self._others = others
        self._interface = JitInterface(memory, self.warnings)
        self._entries: list[Entry] | None = None
        self._images: dict[Entry, bytes] = {}
        """Of objects with functions of this JIT's."""
        self._functions: list[_Registered] = []
        self._starts: list[int] = []
        self._verified: dict[int, Code | None] = {}
        self._tables: dict[Entry, dict[int, UnwindTable]] = {}
        self._lines: dict[Entry, list[tuple[int, str, int]]] = {}

    def may_hold(self, pc: int) -> Mapping | None:
        return range_around(self.ranges, pc)

    def find(self, pc: int) -> Code | None:
        if self.may_hold(pc) is None:
            return None
        self._read()
        found = self._at(pc)
        if found is None:
            return None
        start = found.function.start
        if start not in self._verified:
            self._verified[start] = self._code(found)
        return self._verified[start]

    @property
    def starts(self) -> Sequence[int]:
        self._read()
        return self._starts

    def pieces(self, code: Code) -> Sequence[Region]:
        found = self._at(code.start)
        name = plain_name(found.function.name) if found is not None else f"{code.start:#x}"
        return (Region(code.start, code.size, name),)

    def lines(self, code: Code) -> Sequence[Line]:
        found = self._at(code.start)
        if found is None:
            return ()
        if found.entry not in self._lines:
            self._lines[found.entry] = _lines_in(self._images[found.entry])
        return _of_function(self._lines[found.entry], code)

    def gates(self) -> Sequence[Region]:
        return ()

    def is_current(self) -> bool:
        self._verified.clear()
        if self._entries is not None and not self._is_as_read():
            return False
        return code_ranges(self.memory) == self.ranges

    def _is_as_read(self) -> bool:
        """Whether the list is as it was, and each object: another may lie in the same place now."""
        if self._interface.entries() != self._entries:
            return False
        return all(self._interface.image(entry) == image for entry, image in self._images.items())

    def _read(self) -> None:
        if self._entries is not None:
            return
        self._entries = self._interface.entries()
        by_start: dict[int, _Registered] = {}
        for entry in self._entries:
            image = self._interface.image(entry)
            for function in self._functions_of(entry, image):
                by_start.setdefault(function.start, _Registered(function, entry))
                self._images[entry] = image
        self._functions = _apart([by_start[start] for start in sorted(by_start)])
        self._starts = [each.function.start for each in self._functions]

    def _functions_of(self, entry: Entry, image: bytes) -> list[Function]:
        try:
            found = _functions_in(image) if image else ()
        except NotElf as error:
            self.warnings.append(f"the object registered at {entry.address:#x} {error}")
            return []
        return [each for each in found if self._is_own(each)]

    def _is_own(self, function: Function) -> bool:
        last = function.start + function.size - 1
        is_code = function.size <= LARGEST_FUNCTION and self.may_hold(function.start) is not None
        return is_code and self.may_hold(last) is not None and not function.name.startswith(self._others)

    def _at(self, pc: int) -> _Registered | None:
        index = bisect_right(self._starts, pc) - 1
        found = self._functions[index] if index >= 0 else None
        return found if found is not None and pc < found.function.start + found.function.size else None

    def _code(self, found: _Registered) -> Code | None:
        function = found.function
        try:
            data = self.memory.checked_read(function.start, function.size)
        except UnreadableMemory as error:
            self.warnings.append(f"the machine code at {function.start:#x} cannot be read: {error}")
            return None
        row = entry_row(self.arch, self._table(found), self.arch.platform)
        return Code(function.start, data, ((0, row),), 0, found.entry.at)

    def _table(self, found: _Registered) -> UnwindTable | None:
        """What the object's own `.eh_frame` says of a function."""
        entry = found.entry
        if entry not in self._tables:
            self._tables[entry] = self._tables_of(entry)
        return self._tables[entry].get(found.function.start)

    def _tables_of(self, entry: Entry) -> dict[int, UnwindTable]:
        from jitunwind.dwarf.decode import eh_frame, table_of  # processes without such code do without it

        image = self._images[entry]
        tables: dict[int, UnwindTable] = {}
        for frames in self._interface.frames(image, sections(image)):
            try:
                for fde in eh_frame(frames.data, frames.address):
                    tables.setdefault(fde.start, table_of(fde, self.arch.same_value_by_default))
            except MalformedFrames as error:
                self.warnings.append(f"the frames at {frames.address:#x} are not understood: {error}")
        return tables


@lru_cache(maxsize=1 << 13)
def _functions_in(image: bytes) -> tuple[Function, ...]:
    """NotElf."""
    return tuple(functions(image, sections(image)))


def _apart(found: Sequence[_Registered]) -> list[_Registered]:
    """Rising functions, each cut off where the next one begins."""
    apart = []
    for one, other in pairwise([*found, None]):
        assert one is not None
        size = one.function.size
        if other is not None:
            size = min(size, other.function.start - one.function.start)
        apart.append(one._replace(function=one.function._replace(size=size)))
    return apart


def _lines_in(image: bytes) -> list[tuple[int, str, int]]:
    """(address, file, line) of an object's `.debug_line`, rising; nothing where what reads it is not installed, as in a
    GDB, which knows the lines by itself."""
    try:
        from jitunwind.elf.line_rows import line_rows
    except ImportError:
        return []
    return line_rows(image)


def _of_function(rows: Sequence[tuple[int, str, int]], code: Code) -> list[Line]:
    first = max(bisect_right(rows, code.start, key=lambda row: row[0]) - 1, 0)
    found: list[Line] = []
    for address, file, line in rows[first:]:
        if address >= code.end:
            break
        offset = max(address - code.start, 0)
        if found and found[-1].offset == offset:
            found.pop()
        if line and (not found or (found[-1].filename, found[-1].line) != (file, line)):
            found.append(Line(offset, file, line))
    return found
