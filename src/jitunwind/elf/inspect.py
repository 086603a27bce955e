"""ELF files, read: bytes by address as the loader would lay them, sections, and the names of functions.

Everything that reads code or tables out of files comes here. The headers are pyelftools' work; the long
tables (relocations, symbols) are taken apart by `struct`, which is a hundred times faster.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from struct import Struct, error, pack_into
from typing import NamedTuple

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from jitunwind.errors import NotElf


class Relocation(IntEnum):
    """Those that matter to who reads a file: System V psABI x86_64, table 4.9."""

    GLOB_DAT = 6
    JUMP_SLOT = 7
    RELATIVE = 8


_RELA = Struct("<QQq")  # r_offset, r_info, r_addend (gABI, "Relocation")
_SYM = Struct("<IBBHQQ")  # st_name, st_info, st_other, st_shndx, st_value, st_size (gABI, "Symbol Table")
_FUNCTION_TYPES = (2, 10)  # STT_FUNC, STT_GNU_IFUNC
_EXECUTABLE, _ALLOCATED = 4, 2  # SHF_EXECINSTR, SHF_ALLOC


@dataclass(frozen=True, slots=True)
class Section:
    """A section that the program sees in memory, or one that it does not (`address` 0)."""

    name: str
    address: int
    size: int
    executable: bool

    @property
    def end(self) -> int:
        return self.address + self.size


class Symbol(NamedTuple):
    """A function of the file's symbol tables; `address` 0 for one that another file defines."""

    name: str
    address: int
    size: int


class ElfFile:
    """One file. Addresses are those of the file, before the loader moves it.

    Raises NotElf for what is no 64-bit little-endian ELF file; OSError for what cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as stream:
            try:
                elf = ELFFile(stream)
                if elf.elfclass != 64 or not elf.little_endian:
                    raise NotElf(f"{path} is not a 64-bit little-endian ELF file")
                self.machine: str = elf["e_machine"]
                self._read(elf)
            except (ELFError, error, UnicodeDecodeError) as problem:
                raise NotElf(f"{path}: {problem or 'no ELF file'}") from problem

    def _read(self, elf: ELFFile) -> None:
        self.sections: dict[str, Section] = {}
        self._data: dict[str, bytes] = {}
        self._relocations: list[tuple[bytes, list[str]]] = []
        self._symbols: list[tuple[bytes, bytes]] = []
        self._segments = [
            (segment["p_vaddr"], bytearray(segment.data()).ljust(segment["p_memsz"], b"\0"))
            for segment in elf.iter_segments("PT_LOAD")
        ]
        self._segments.sort(key=lambda segment: segment[0])
        self._starts = [start for start, _ in self._segments]
        self.build_id = ""
        for section in elf.iter_sections():
            kind, flags = section["sh_type"], section["sh_flags"]
            address = section["sh_addr"] if flags & _ALLOCATED else 0
            self.sections[section.name] = Section(
                section.name, address, section["sh_size"], bool(flags & _EXECUTABLE)
            )
            if kind in ("SHT_DYNSYM", "SHT_SYMTAB"):
                strings = elf.get_section(section["sh_link"]).data()
                self._symbols.append((section.data(), strings))
            elif kind == "SHT_RELA" and flags & _ALLOCATED:
                self._relocations.append((section.data(), self._symbol_names(elf, section["sh_link"])))
            elif section.name == ".note.gnu.build-id":
                self.build_id = section.data()[16:].hex()
            elif section.name == ".debug_frame":
                self._data[section.name] = section.data()
        self._apply_relative()

    @staticmethod
    def _symbol_names(elf: ELFFile, index: int) -> list[str]:
        table = elf.get_section(index)
        if table["sh_type"] != "SHT_DYNSYM":
            return []
        strings = elf.get_section(table["sh_link"]).data()
        data = table.data()
        whole = len(data) - len(data) % _SYM.size
        return [_text(strings, fields[0]) for fields in _SYM.iter_unpack(data[:whole])]

    def _apply_relative(self) -> None:
        """Write R_X86_64_RELATIVE's addends where the loader would: jump tables of addresses need them."""
        self.imports: dict[int, str] = {}
        for data, names in self._relocations:
            for place, info, addend in _RELA.iter_unpack(data[: len(data) - len(data) % _RELA.size]):
                kind = info & 0xFFFFFFFF
                if kind == Relocation.RELATIVE:
                    found = self._segment(place)
                    if found is not None and place - found[0] + 8 <= len(found[1]):
                        pack_into("<q", found[1], place - found[0], addend)
                elif kind in (Relocation.GLOB_DAT, Relocation.JUMP_SLOT) and info >> 32 < len(names):
                    self.imports[place] = names[info >> 32]
        self._relocations.clear()

    def _segment(self, address: int) -> tuple[int, bytearray] | None:
        index = bisect_right(self._starts, address) - 1
        if index < 0:
            return None
        start, data = self._segments[index]
        return (start, data) if address < start + len(data) else None

    def read(self, address: int, size: int) -> bytes:
        """The bytes at `address`; fewer, or none, where the segment there ends."""
        found = self._segment(address)
        if found is None:
            return b""
        start, data = found
        return bytes(data[address - start : address - start + size])

    def section_data(self, name: str) -> bytes:
        """A section's bytes, empty where the file has no such section."""
        section = self.sections.get(name)
        if section is None:
            return b""
        return self._data[name] if name in self._data else self.read(section.address, section.size)

    def section_of(self, address: int) -> Section | None:
        """The section that has `address` in memory."""
        index = bisect_right(self._section_starts, address) - 1
        section = self._loaded[index] if index >= 0 else None
        return section if section is not None and address < section.end else None

    @cached_property
    def _loaded(self) -> list[Section]:
        return sorted((s for s in self.sections.values() if s.address and s.size), key=lambda s: s.address)

    @cached_property
    def _section_starts(self) -> list[int]:
        return [section.address for section in self._loaded]

    def functions(self) -> Iterator[Symbol]:
        """The functions in the symbol tables."""
        for data, strings in self._symbols:
            whole = len(data) - len(data) % _SYM.size
            for name, info, _, _, value, size in _SYM.iter_unpack(data[:whole]):
                if info & 0xF in _FUNCTION_TYPES:
                    yield Symbol(_text(strings, name), value, size)

    def debug_file(self) -> Path | None:
        """The separate debug file, by build-id, under any `usr/lib/debug` above the file."""
        if len(self.build_id) < 4:
            return None
        tail = Path("usr/lib/debug/.build-id", self.build_id[:2], f"{self.build_id[2:]}.debug")
        candidates = (parent / tail for parent in self.path.resolve().parents)
        return next((path for path in candidates if path.is_file()), None)


def _text(strings: bytes, at: int) -> str:
    end = strings.find(b"\0", at)
    return strings[at : end if end >= 0 else len(strings)].decode("utf-8", "replace")
