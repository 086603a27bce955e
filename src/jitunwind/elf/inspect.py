"""ELF files, read: bytes by address as the loader would lay them, sections, and the names of functions.

Everything that reads code or tables out of files comes here. The headers are pyelftools' work; the long
tables (relocations, symbols) are taken apart by `struct`, which is a hundred times faster. Relocatable objects
are first laid out by `elf/relocatable.py`.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from os import SEEK_END
from pathlib import Path
from struct import pack_into
from typing import NamedTuple

from elftools.elf.elffile import ELFFile

from jitunwind.arch.known import of_machine, relocations_of
from jitunwind.elf.relocatable import ALLOCATED, Layout, lay_out, relocations, symbols, text_at
from jitunwind.errors import NotElf

_FUNCTION_TYPES = (2, 10)  # STT_FUNC, STT_GNU_IFUNC
_EXECUTABLE = 4  # SHF_EXECINSTR
_MAGIC = b"\x7fELF"
_MACHINE_AT = 18  # e_machine (gABI, "ELF Header")


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
    """One file. Addresses are those of the file, before the loader moves it; in a relocatable object, those of
    `elf/relocatable.py`.

    `machine` is its `e_machine`. `all_sections` are in the file's order, `sections` the first of each name.
    `imports` are the names behind
    slots of the global offset table, `externals` those behind addresses made up for what an object lacks.
    Raises NotElf for what is no 64-bit little-endian ELF file, or a damaged one; OSError for what cannot be
    opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as stream:
            size = stream.seek(0, SEEK_END)
            stream.seek(0)
            if stream.read(len(_MAGIC)) != _MAGIC:
                raise NotElf(f"{path} is not an ELF file")
            try:
                elf = ELFFile(stream)
                if elf.elfclass != 64 or not elf.little_endian:
                    raise NotElf(f"{path} is not a 64-bit little-endian ELF file")
                self.machine_name = str(elf["e_machine"]).removeprefix("EM_")
                stream.seek(_MACHINE_AT)
                self.machine = int.from_bytes(stream.read(2), "little")
                self._read(elf, size)
            except NotElf:
                raise
            except Exception as problem:  # pyelftools meets damaged files with whatever its code runs into
                raise NotElf(
                    f"{path} is damaged or cut short: {problem or type(problem).__name__}"
                ) from problem

    def _read(self, elf: ELFFile, size: int) -> None:
        self.all_sections: list[Section] = []
        self._data: dict[str, bytes] = {}
        self._relocations: list[tuple[bytes, list[str]]] = []
        self._symbols: list[tuple[bytes, bytes]] = []
        self._check_whole(elf, size)
        arch = of_machine(self.machine)
        kinds = relocations_of(arch) if arch is not None else None
        layout: Layout | None = lay_out(elf, kinds) if elf["e_type"] == "ET_REL" else None
        self._bases: dict[int, int] | None = None if layout is None else layout.bases
        self._segments = (
            [(segment["p_vaddr"], bytearray(segment.data())) for segment in elf.iter_segments("PT_LOAD")]
            if layout is None
            else layout.segments
        )
        self._segments.sort(key=lambda segment: segment[0])
        self._starts = [start for start, _ in self._segments]
        self.build_id = ""
        for index, section in enumerate(elf.iter_sections()):
            kind, flags = section["sh_type"], section["sh_flags"]
            address = section["sh_addr"] if flags & ALLOCATED else 0
            if layout is not None:
                address = layout.bases.get(index, 0)
            self.all_sections.append(
                Section(section.name, address, section["sh_size"], bool(flags & _EXECUTABLE))
            )
            if kind in ("SHT_DYNSYM", "SHT_SYMTAB"):
                strings = elf.get_section(section["sh_link"]).data()
                self._symbols.append((section.data(), strings))
            elif kind == "SHT_RELA" and flags & ALLOCATED:
                self._relocations.append((section.data(), self._symbol_names(elf, section["sh_link"])))
            elif section.name == ".note.gnu.build-id":
                self.build_id = section.data()[16:].hex()
            elif section.name == ".debug_frame":
                self._data[section.name] = section.data()
        self.sections = {section.name: section for section in reversed(self.all_sections)}
        self.imports: dict[int, str] = {} if layout is None else layout.slots
        self.externals: dict[int, str] = {} if layout is None else layout.externals
        self._apply_relative()

    def _check_whole(self, elf: ELFFile, size: int) -> None:
        for section in elf.iter_sections():
            if section["sh_type"] not in ("SHT_NOBITS", "SHT_NULL"):
                end = section["sh_offset"] + section["sh_size"]
                if end > size:
                    raise NotElf(
                        f"{self.path} is cut short: its section {section.name} ends at byte {end:,} of {size:,}"
                    )

    @staticmethod
    def _symbol_names(elf: ELFFile, index: int) -> list[str]:
        table = elf.get_section(index)
        if table["sh_type"] != "SHT_DYNSYM":
            return []
        strings = elf.get_section(table["sh_link"]).data()
        return [text_at(strings, fields[0]) for fields in symbols(table.data())]

    def _apply_relative(self) -> None:
        """Write the addends of relative relocations where the loader would: jump tables of addresses need them."""
        arch = of_machine(self.machine)
        if arch is None:
            return
        kinds = arch.relocations
        for data, names in self._relocations:
            for place, info, addend in relocations(data):
                kind = info & 0xFFFFFFFF
                if kind == kinds.relative:
                    found = self._segment(place)
                    if found is not None and place - found[0] + 8 <= len(found[1]):
                        pack_into("<q", found[1], place - found[0], addend)
                elif kind in kinds.slots and info >> 32 < len(names):
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
        return sorted((s for s in self.all_sections if s.address and s.size), key=lambda s: s.address)

    @cached_property
    def _section_starts(self) -> list[int]:
        return [section.address for section in self._loaded]

    def functions(self) -> Iterator[Symbol]:
        """The functions in the symbol tables."""
        for data, strings in self._symbols:
            for name, info, _, where, value, size in symbols(data):
                if info & 0xF in _FUNCTION_TYPES:
                    if self._bases is not None:
                        value = self._bases[where] + value if where in self._bases else 0
                    yield Symbol(text_at(strings, name), value, size)

    def debug_file(self) -> Path | None:
        """The separate debug file, by build-id, under any `usr/lib/debug` above the file."""
        if len(self.build_id) < 4:
            return None
        tail = Path("usr/lib/debug/.build-id", self.build_id[:2], f"{self.build_id[2:]}.debug")
        candidates = (parent / tail for parent in self.path.resolve().parents)
        return next((path for path in candidates if path.is_file()), None)
