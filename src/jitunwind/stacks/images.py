"""The programs and libraries that a process has loaded, read from its memory: unwind tables and exported symbols.

What the loader has mapped is enough for both, so no file is needed: neither one that was deleted or replaced, nor one
in another mount namespace. The vDSO has no file at all. (System V gABI, "Program Header" and "Dynamic Section".)
"""

from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property
from os.path import basename
from struct import Struct
from typing import TYPE_CHECKING

from jitunwind.errors import MalformedFrames, UnreadableMemory
from jitunwind.memory import Mapping, Memory

if TYPE_CHECKING:
    from jitunwind.dwarf.header import FrameIndex

_MAGIC = b"\x7fELF\x02\x01"
_HEADER = Struct("<16sHHIQQQIHHHHHH")
_PROGRAM_HEADER = Struct("<IIQQQQQQ")
_PT_LOAD, _PT_DYNAMIC, _PT_GNU_EH_FRAME = 1, 2, 0x6474E550
_MOST_SEGMENTS = 1 << 10
_MOST_DYNAMIC = 1 << 10
_MOST_STEPS_BACK = 64
"""Mappings of one file before the one with its code."""
_DT_STRTAB, _DT_SYMTAB, _DT_GNU_HASH = 5, 6, 0x6FFFFEF5
_SYMBOL = Struct("<IBBHQQ")
"""st_name, st_info, st_other, st_shndx, st_value, st_size (gABI, "Symbol Table")."""
_MOST_IN_BUCKET = 1 << 16


class Image:
    """One loaded file: mapped from `base` on, its addresses moved by `bias`."""

    def __init__(self, memory: Memory, path: str, base: int) -> None:
        self._memory = memory
        self.path = path
        self.base = base
        self.bias = 0
        self.problem = ""
        self._segments: dict[int, tuple[int, int]] = {}
        try:
            self._read()
        except UnreadableMemory:
            self.problem = f"{path or 'the image'} at {base:#x} cannot be read"

    def _read(self) -> None:
        memory = self._memory
        header = _HEADER.unpack(memory.checked_read(self.base, _HEADER.size))
        table, size, count = header[5], header[9], header[10]
        if header[0][:6] != _MAGIC or size != _PROGRAM_HEADER.size or not 0 < count <= _MOST_SEGMENTS:
            self.problem = f"{self.path} has no program headers in memory"
            return
        first = None
        for kind, _, _, address, _, _, length, _ in _PROGRAM_HEADER.iter_unpack(
            memory.checked_read(self.base + table, size * count)
        ):
            if kind == _PT_LOAD and first is None:
                first = address & -4096
            elif kind in (_PT_DYNAMIC, _PT_GNU_EH_FRAME):
                self._segments[kind] = (address, length)
        self.bias = self.base - (first or 0)

    @cached_property
    def frame_index(self) -> "FrameIndex | None":
        """The index of its unwind table; None, where it has none that can be read."""
        from jitunwind.dwarf.header import FrameIndex

        found = self._segments.get(_PT_GNU_EH_FRAME)
        if found is None:
            self.problem = self.problem or f"{basename(self.path)} has no .eh_frame_hdr"
            return None
        try:
            return FrameIndex(self._memory.checked_read, found[0] + self.bias)
        except (MalformedFrames, UnreadableMemory) as error:
            self.problem = f"{basename(self.path)}: {error}"
            return None

    @cached_property
    def dynamic(self) -> dict[int, int]:
        """Its dynamic section: the first value of each tag."""
        address, length = self._segments.get(_PT_DYNAMIC, (0, 0))
        count = min(length // 16, _MOST_DYNAMIC)
        words = self._memory.words(address + self.bias, 2 * count) if count else ()
        found: dict[int, int] = {}
        for tag, value in zip(words[::2], words[1::2], strict=True):
            if tag == 0:
                break
            found.setdefault(tag, value)
        return found

    def symbol(self, name: str) -> int | None:
        """The address of a symbol that it exports, by its DT_GNU_HASH table; None, where it has none of that name."""
        try:
            return self._symbol(name.encode())
        except (UnreadableMemory, ValueError):
            return None

    def _at(self, tag: int) -> int | None:
        """Where a table of the dynamic section lies: glibc's loader writes the address that it has moved it to, musl's
        and that of the vDSO leave the file's own."""
        value = self.dynamic.get(tag)
        return value if value is None or value >= self.base else value + self.bias

    def _symbol(self, name: bytes) -> int | None:
        strings, symbols, table = (self._at(tag) for tag in (_DT_STRTAB, _DT_SYMTAB, _DT_GNU_HASH))
        if strings is None or symbols is None or table is None:
            return None
        memory = self._memory
        buckets, first, filters, _ = Struct("<4I").unpack(memory.checked_read(table, 16))
        if not buckets:
            return None
        wanted = _gnu_hash(name)
        starts = table + 16 + 8 * filters
        index = int.from_bytes(memory.checked_read(starts + 4 * (wanted % buckets), 4), "little")
        chain = starts + 4 * buckets
        for number in range(index, index + _MOST_IN_BUCKET) if index >= first else ():
            value = int.from_bytes(memory.checked_read(chain + 4 * (number - first), 4), "little")
            if value | 1 == wanted | 1:
                at, _, _, where, address, _ = _SYMBOL.unpack(
                    memory.checked_read(symbols + _SYMBOL.size * number, _SYMBOL.size)
                )
                if where and memory.checked_read(strings + at, len(name) + 1) == name + b"\0":
                    return int(address + self.bias)
            if value & 1:
                break
        return None


def _gnu_hash(name: bytes) -> int:
    value = 5381
    for byte in name:
        value = value * 33 + byte & 0xFFFFFFFF
    return value


class Images:
    """All of a process. Its `mappings` are asked each time, as they change."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._images: dict[int, Image] = {}
        """By where each begins."""
        self._of_mapping: dict[int, Image | None] = {}

    def at(self, address: int) -> Image | None:
        """The image that `address` lies in; None, where the memory there is no file's."""
        mappings = self._memory.mappings()
        index = bisect_right(mappings, address, key=_start) - 1
        if index < 0 or address >= mappings[index].end:
            return None
        mapping = mappings[index]
        if mapping.start not in self._of_mapping:
            self._of_mapping[mapping.start] = self._find(mappings, index)
        return self._of_mapping[mapping.start]

    def _find(self, mappings: list[Mapping], index: int) -> Image | None:
        path = mappings[index].path
        if not path:
            return None
        for mapping in reversed(mappings[max(index - _MOST_STEPS_BACK, 0) : index + 1]):
            if mapping.path == path and self._begins_image(mapping.start):
                return self._image(path, mapping.start)
        return None

    def _begins_image(self, address: int) -> bool:
        try:
            return self._memory.checked_read(address, len(_MAGIC)) == _MAGIC
        except UnreadableMemory:
            return False

    def _image(self, path: str, base: int) -> Image:
        if base not in self._images:
            self._images[base] = Image(self._memory, path, base)
        return self._images[base]

    def symbol(self, name: str) -> int | None:
        """The address of a symbol that the program or a libpython exports."""
        return next(filter(None, (image.symbol(name) for image in self._likely())), None)

    def _likely(self) -> Iterator[Image]:
        """The program, which is mapped first unless the loader was started with its name, and a libpython."""
        seen: set[str] = set()
        for mapping in self._memory.mappings():
            if mapping.path in seen or not mapping.path.startswith("/"):
                continue
            if not seen or basename(mapping.path).startswith(("libpython", "python")):
                image = self._begins_image(mapping.start) and self._image(mapping.path, mapping.start)
                if image:
                    yield image
            seen.add(mapping.path)


def _start(mapping: Mapping) -> int:
    return mapping.start
