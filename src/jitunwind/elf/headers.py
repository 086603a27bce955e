"""The headers of an ELF file, by `struct`: segments, sections, notes, the dynamic section.

In come bytes: a file's, or what a process has in memory of it. Out come addresses and views; nothing is copied, and
nothing beyond the headers is read. pyelftools takes a hundred times longer to import and to ask. The bytes are not
trusted: what lies outside of them is empty.
"""

import struct
from collections.abc import Iterator
from functools import cached_property
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from jitunwind.errors import NotElf

if TYPE_CHECKING:
    from typing_extensions import Buffer  # collections.abc has it from Python 3.12 on

_MAGIC = b"\x7fELF\x02\x01"
"""e_ident of 64-bit little-endian files (gABI, "ELF Identification")."""
HEADER_SIZE = 64
_HEADER = Struct("<16sHHIQQQIHHHHHH")  # gABI, "ELF Header"
_SEGMENT = Struct("<IIQQQQQQ")  # p_type, p_flags, p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_align
_SECTION = Struct(
    "<IIQQQQIIQQ"
)  # sh_name, sh_type, sh_flags, sh_addr, sh_offset, sh_size, sh_link, sh_info, …
_NOTE = Struct("<III")
_DYNAMIC = Struct("<QQ")
_MOST_SEGMENTS = 1 << 12
_MOST_SECTIONS = 1 << 16
_MOST_NOTES = 1 << 20
_PAGE = 4096
ET_EXEC, ET_DYN = 2, 3
PT_LOAD, PT_DYNAMIC, PT_INTERP, PT_NOTE, PT_GNU_EH_FRAME = 1, 2, 3, 4, 0x6474E550
PF_X, PF_W = 1, 2
SHT_SYMTAB, SHT_STRTAB, SHT_RELA, SHT_NOBITS, SHT_DYNSYM = 2, 3, 4, 8, 11
SHF_ALLOC, SHF_EXECINSTR, SHF_COMPRESSED = 2, 4, 0x800
_NT_GNU_BUILD_ID = 3
_LONGEST_BUILD_ID = 64


class Segment(NamedTuple):
    """A program header (gABI, "Program Header")."""

    kind: int
    flags: int
    offset: int
    address: int
    stored: int
    """p_filesz."""
    size: int
    """p_memsz."""


class Section(NamedTuple):
    """A section header (gABI, "Section Header Table")."""

    name: str
    kind: int
    flags: int
    address: int
    offset: int
    size: int
    link: int

    def holds(self, address: int) -> bool:
        return self.address <= address < self.address + self.size


class Headers:
    """Those of the ELF file in `data`. NotElf, where it is no 64-bit little-endian one, or cut inside its program
    headers; section headers, which no process needs, may be missing."""

    def __init__(self, data: "Buffer") -> None:
        self.data = memoryview(data).cast("B")
        try:
            fields = _HEADER.unpack_from(self.data)
        except struct.error:
            raise NotElf("it is cut short, or no ELF file") from None
        if not fields[0].startswith(_MAGIC):
            raise NotElf("it is no 64-bit little-endian ELF file")
        _, self.kind, self.machine, _, self.entry, segments, self._sections_at, _, _, size, count, *_ = fields
        self._section_size, self._section_count, self._names_in = fields[11:14]
        table = self.data[segments : segments + size * count]
        if size != _SEGMENT.size or count > _MOST_SEGMENTS or len(table) != size * count:
            raise NotElf("its program headers make no sense")
        self.segments = [
            Segment(kind, flags, offset, address, stored, in_memory)
            for kind, flags, offset, address, _, stored, in_memory, _ in _SEGMENT.iter_unpack(table)
        ]

    @cached_property
    def loaded(self) -> list[Segment]:
        """The segments that are mapped (PT_LOAD)."""
        return [segment for segment in self.segments if segment.kind == PT_LOAD]

    @cached_property
    def begin(self) -> int:
        """The address of the first page that is mapped."""
        return min((segment.address for segment in self.loaded), default=0) & -_PAGE

    @cached_property
    def sections(self) -> list[Section]:
        """All sections, in the file's order; none, where the headers are missing or damaged."""
        count, start = self._section_count, self._sections_at
        if not count and start:  # more than fit: the number is in the first one's sh_size (gABI, e_shnum)
            count = self._number(start + 32, 8)
        table = self.data[start : start + count * _SECTION.size]
        if not 0 < count <= _MOST_SECTIONS or self._section_size != _SECTION.size or not start:
            return []
        if len(table) != count * _SECTION.size:
            return []
        rows = list(_SECTION.iter_unpack(table))
        names_in = self._names_in if self._names_in != _XINDEX else rows[0][6]
        if names_in >= count:
            return []
        names = self._range(rows[names_in][4], rows[names_in][5])
        return [
            Section(string_at(names, name), kind, flags, address, offset, size, link)
            for name, kind, flags, address, offset, size, link, _, _, _ in rows
        ]

    def section(self, name: str) -> Section | None:
        """The first section of that name."""
        return next((section for section in self.sections if section.name == name), None)

    def content(self, section: Section | None) -> memoryview:
        """A section's bytes; empty where it has none, or they lie outside of the file."""
        if section is None or section.kind == SHT_NOBITS:
            return self.data[:0]
        return self._range(section.offset, section.size)

    def at_address(self, address: int, size: int) -> memoryview:
        """The bytes that the file has for [address, address + size) of its segments; fewer, where those end."""
        for segment in self.loaded:
            within = address - segment.address
            if 0 <= within < segment.stored:
                return self.data[segment.offset + within :][: min(size, segment.stored - within)]
        return self.data[:0]

    @cached_property
    def build_id(self) -> str:
        """In hexadecimal; empty, where the file has none."""
        for segment in self.segments:
            if segment.kind == PT_NOTE:
                found = build_id_in(self._range(segment.offset, segment.stored))
                if found:
                    return found
        return build_id_in(self.content(self.section(".note.gnu.build-id")))

    @cached_property
    def debug_link(self) -> tuple[str, int] | None:
        """The name of its debug file and that file's CRC-32 (.gnu_debuglink; GDB's manual, "Separate Debug
        Files")."""
        data = bytes(self.content(self.section(".gnu_debuglink")))
        name, _, _ = data.partition(b"\0")
        crc = data[(len(name) + 4) & ~3 :][:4]
        if not name or b"/" in name or len(crc) != 4:
            return None
        return name.decode(errors="surrogateescape"), int.from_bytes(crc, "little")

    def dynamic(self) -> dict[int, int]:
        """The dynamic section: the first value of each tag (gABI, "Dynamic Section")."""
        found: dict[int, int] = {}
        for segment in self.segments:
            if segment.kind == PT_DYNAMIC:
                table = self._range(segment.offset, segment.stored)
                for tag, value in _DYNAMIC.iter_unpack(table[: len(table) // _DYNAMIC.size * _DYNAMIC.size]):
                    if not tag:
                        break
                    found.setdefault(tag, value)
        return found

    def bias(self, start: int, offset: int, executable: bool) -> int | None:
        """What to add to the file's addresses where its bytes from `offset` on are mapped at `start`; None where no
        segment has them. Where two segments share a page, the one that is mapped in that way counts."""
        fitting = [
            segment
            for segment in self.loaded
            if segment.offset & -_PAGE <= offset < segment.offset + max(segment.stored, 1)
        ]
        fitting.sort(key=lambda segment: bool(segment.flags & PF_X) != executable)
        for segment in fitting:
            return start - offset - (segment.address - segment.offset)
        return None

    def _range(self, offset: int, size: int) -> memoryview:
        """Empty, unless all of it lies inside."""
        part = self.data[offset : offset + size]
        return part if len(part) == size else self.data[:0]

    def _number(self, offset: int, size: int) -> int:
        return int.from_bytes(self.data[offset : offset + size], "little")


_XINDEX = 0xFFFF
"""SHN_XINDEX: e_shstrndx is in the first section's sh_link."""


def notes(data: memoryview) -> Iterator[tuple[int, bytes, memoryview]]:
    """(type, name, content) of each note (gABI, "Note Section"), as far as they are whole."""
    at, end = 0, min(len(data), _MOST_NOTES)
    while at + _NOTE.size <= end:
        name_size, size, kind = _NOTE.unpack_from(data, at)
        start = at + _NOTE.size + (name_size + 3 & ~3)
        if start + size > end:
            return
        yield kind, bytes(data[at + _NOTE.size : at + _NOTE.size + name_size]), data[start : start + size]
        at = start + (size + 3 & ~3)


def build_id_in(data: memoryview) -> str:
    """The build-id in notes, in hexadecimal; empty, where there is none."""
    for kind, name, content in notes(data):
        if kind == _NT_GNU_BUILD_ID and name == b"GNU\0" and 1 < len(content) <= _LONGEST_BUILD_ID:
            return content.hex()
    return ""


def string_at(strings: memoryview, at: int) -> str:
    """The NUL-terminated name at `at` of a string table; cut after 4096 bytes."""
    return bytes(strings[at : at + _LONGEST_NAME]).partition(b"\0")[0].decode("utf-8", "replace")


_LONGEST_NAME = 4096
