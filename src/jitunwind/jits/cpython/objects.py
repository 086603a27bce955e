"""Python objects of another process, read without trusting them: types, strings, code objects, lines."""

from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from jitunwind.errors import CorruptState, UnreadableMemory
from jitunwind.jits.cpython.layout import Layout
from jitunwind.memory import Memory

_LONGEST_STRING = 1 << 16
_LARGEST_CODE = 1 << 24
_SEARCH_STEPS = (1 << 10, 1 << 13, 1 << 16, 1 << 19)
CODE_UNIT = 2
"""Bytes of a bytecode instruction, and the unit in which traces and line tables count."""


class CodeObject(NamedTuple):
    """A code object: where its bytecode lies, what it is called, and its line table (PEP 626)."""

    address: int
    bytecode: int
    bytecode_size: int
    qualname: str
    filename: str
    first_line: int
    line_table: bytes

    @property
    def name(self) -> str:
        """The form that CPython's own perf support uses (Python/perf_trampoline.c)."""
        return f"py::{self.qualname}:{self.filename}"

    def holds(self, instruction: int) -> bool:
        """Whether the bytecode instruction at that address is one of this code object."""
        return self.bytecode <= instruction < self.bytecode + self.bytecode_size

    def line_at(self, instruction: int) -> int | None:
        """The source line of the bytecode instruction at that address; None where it has none."""
        if not self.holds(instruction):
            return None
        starts, lines = _lines(self.line_table, self.first_line)
        index = bisect_right(starts, instruction - self.bytecode) - 1
        return lines[index] if index >= 0 else None


class Objects:
    """Reads and remembers the objects of one process. Clear it (make another) when the process has run."""

    def __init__(self, memory: Memory, layout: Layout) -> None:
        self._memory = memory
        self._layout = layout
        self._offsets = layout.offsets
        self._code_objects: dict[int, CodeObject | None] = {}
        self._heads: dict[int, bytes] = {}
        """Of code objects, where `compare_anew` was called: what tells one from another at its place."""
        self._compared: set[int] | None = None
        self._type_names: dict[int, str] = {}
        self._owners: list[CodeObject] = []
        self._bytecodes: list[int] = []
        """Where the bytecode of each begins, rising."""
        """By rising address of their bytecode."""
        self.code_type = memory.symbol("PyCode_Type")
        self.type_at = layout.offsets["pyobject.ob_type"]
        """Where an object has its type."""

    def type_name(self, address: int) -> str:
        """The name of the type of the object at `address`. UnreadableMemory, if it is not one."""
        return self.name_of_type(self._memory.word(address + self.type_at))

    def name_of_type(self, address: int) -> str:
        """The name of the type at `address`. UnreadableMemory, if it is not one."""
        name = self._type_names.get(address)
        if name is None:
            pointer = self._memory.word(address + self._offsets["type_object.tp_name"])
            name = self._type_names[address] = self._memory.cstring(pointer)
        return name

    def text(self, address: int) -> str:
        """The str at `address`, compact as all names are (PEP 393). CorruptState, if it is not one."""
        offsets, memory = self._offsets, self._memory
        if self.type_name(address) != "str":
            raise CorruptState(f"the object at {address:#x} is no str")
        length = memory.word(address + offsets["unicode_object.length"])
        state = int.from_bytes(memory.checked_read(address + offsets["unicode_object.state"], 4), "little")
        if length > _LONGEST_STRING:
            raise CorruptState(f"the str at {address:#x} has {length} characters")
        of = self._layout.record.string
        kind, ascii_only = state >> of.kind & 7, state >> of.ascii & 1
        start = address + offsets["unicode_object.asciiobject_size"] + (0 if ascii_only else of.behind_ascii)
        if kind not in (1, 2, 4):
            raise CorruptState(f"the str at {address:#x} is of kind {kind}")
        data = memory.checked_read(start, length * kind)
        return data.decode({1: "latin-1", 2: "utf-16-le", 4: "utf-32-le"}[kind], "replace")

    def code(self, address: int) -> CodeObject | None:
        """The code object at `address`; None, if there is none that makes sense."""
        if self._compared is not None and address not in self._compared:
            self._compare(address, self._compared)
        if address not in self._code_objects:
            try:
                self._code_objects[address] = self._read_code(address)
            except (UnreadableMemory, CorruptState):
                self._code_objects[address] = None
        return self._code_objects[address]

    def compare_anew(self) -> None:
        """The process has run, and code objects may have gone: from now on each is compared before it is believed."""
        self._compared = set()

    def _compare(self, address: int, compared: set[int]) -> None:
        """Forget the code object at `address`, if another one lies there now."""
        compared.add(address)
        head = self._head(address)
        if self._heads.get(address) != head or self._code_objects.get(address) is None:
            gone = self._code_objects.pop(address, None)
            self._owners = [each for each in self._owners if each is not gone]
            self._bytecodes = [each.bytecode for each in self._owners]
        self._heads[address] = head

    def _head(self, address: int) -> bytes:
        """The fields of a code object that do not change; none where it cannot be read."""
        of = self._offsets
        fields = [of[f"code_object.{name}"] for name in ("filename", "name", "qualname", "linetable")]
        first, last = min(fields), max(fields)
        try:
            pointers = self._memory.checked_read(address + first, last + 8 - first)
            size = self._memory.checked_read(address + of["bytes_object.ob_size"], 8)
            return size + pointers + self._memory.checked_read(address + of["code_object.firstlineno"], 4)
        except UnreadableMemory:
            return b""

    def _read_code(self, address: int) -> CodeObject | None:
        offsets, memory = self._offsets, self._memory
        if self.type_name(address) != "code":
            return None
        if not self.code_type:  # the program has no symbols
            self.code_type = memory.word(address + self.type_at)
        units = memory.word(address + offsets["bytes_object.ob_size"])  # as of any PyVarObject
        line_table = memory.word(address + offsets["code_object.linetable"])
        table_size = memory.word(line_table + offsets["bytes_object.ob_size"])
        if units * CODE_UNIT > _LARGEST_CODE or table_size > _LARGEST_CODE:
            raise CorruptState(f"the code object at {address:#x} has an absurd size")
        first_line = memory.checked_read(address + offsets["code_object.firstlineno"], 4)
        code = CodeObject(
            address,
            address + offsets["code_object.co_code_adaptive"],
            units * CODE_UNIT,
            self.text(memory.word(address + offsets["code_object.qualname"])),
            self.text(memory.word(address + offsets["code_object.filename"])),
            int.from_bytes(first_line, "little", signed=True),
            memory.checked_read(line_table + offsets["bytes_object.ob_sval"], table_size),
        )
        index = bisect_right(self._bytecodes, code.bytecode)
        self._owners.insert(index, code)
        self._bytecodes.insert(index, code.bytecode)
        return code

    def code_of_instruction(self, instruction: int) -> CodeObject | None:
        """The code object that the bytecode instruction at that address belongs to.

        Bytecode lies inside its code object: so one known, or the next object below with the type of code.
        """
        index = bisect_right(self._bytecodes, instruction) - 1
        if index >= 0 and self._owners[index].holds(instruction):
            return self._owners[index]
        if not self.code_type:
            return None
        wanted = self.code_type.to_bytes(8, "little")
        for reach in _SEARCH_STEPS:
            start = max(instruction - reach, 8) & ~7
            try:
                below = self._memory.checked_read(start, instruction - start)
            except UnreadableMemory:
                return None
            at = len(below)
            while (at := below.rfind(wanted, 0, at)) != -1:
                address = start + at - self.type_at
                found = self.code(address) if address % 8 == 0 else None
                if found is not None and found.holds(instruction):
                    return found
        return None


@lru_cache(maxsize=256)
def _lines(line_table: bytes, first_line: int) -> tuple[list[int], list[int | None]]:
    """Where each entry of a line table begins, in bytes from the bytecode's start, and its line."""
    entries = list(_entries(line_table, first_line))
    end = entries[-1][1] if entries else 0
    return [*(start for start, _, _ in entries), end], [*(line for _, _, line in entries), None]


_LAST_LINE = (1 << 31) - 1
"""CPython counts lines in an int."""


def _entries(table: bytes, first_line: int) -> Iterator[tuple[int, int, int | None]]:
    """(start, end, line) of each entry of a location table (CPython InternalDocs/code_objects.md); bytes.

    A code object may have been freed, and its memory hold anything: a line that cannot be is none."""
    line, end, index = first_line, 0, 0
    while index < len(table):
        head = table[index]
        if not head & 0x80:
            return
        kind, length = head >> 3 & 15, (head & 7) + 1
        start, end = end, end + length * CODE_UNIT
        index += 1
        if kind in (13, 14):  # no columns; long form
            delta, index = _signed_varint(table, index)
            line += delta
        elif 10 <= kind <= 12:  # one-line forms
            line += kind - 10
        yield start, end, line if kind != 15 and 0 <= line <= _LAST_LINE else None
        while index < len(table) and not table[index] & 0x80:
            index += 1


def _signed_varint(table: bytes, index: int) -> tuple[int, int]:
    value = shift = 0
    while index < len(table):
        part = table[index]
        index += 1
        value |= (part & 63) << shift
        shift += 6
        if not part & 64:
            break
    return (-(value >> 1) if value & 1 else value >> 1), index
