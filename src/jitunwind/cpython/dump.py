"""JIT code taken out of a process: its bytes, names and published frames, as an object and as a file.

`take` makes one of a process's `Regions`, `save` and `load` put it into a file and get it back: an ELF object with
a `.text` at each piece's address, symbols, and the `.eh_frame`s, which objdump, readelf and GDB read as well. An
audit that runs nothing works on this, wherever the code comes from.
"""

import io
import struct
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import NoteSection, Section, SymbolTableSection

from jitunwind.cpython.regions import SHIM_NAME, JitCode, Regions
from jitunwind.elf.image import Code, code_file
from jitunwind.elf.machine import Machine
from jitunwind.errors import BadDump
from jitunwind.memory import Mapping
from jitunwind.region import Region, RegionKind

OWNER = "jitunwind"
_SHF_EXECINSTR = 4
_LARGEST = 1 << 30


class Frames(NamedTuple):
    """The bytes of an `.eh_frame`, which count from `address`."""

    address: int
    data: bytes


@dataclass
class Dump:
    """Regions by rising start with the names of their functions; `entry_shim` and its code, where there is one for
    all; the `frames` that the process has published, and those of that shim. It is a `CodeMap`."""

    version: str
    codes: list[JitCode]
    names: list[str]
    frames: list[Frames] = field(default_factory=list)
    entry_shim: Region | None = None
    shim_code: bytes = b""

    @cached_property
    def starts(self) -> list[int]:
        return [code.start for code in self.codes]

    def _index(self, address: int) -> int | None:
        index = bisect_right(self.starts, address) - 1
        return index if index >= 0 and address < self.codes[index].start + self.codes[index].size else None

    def find(self, address: int) -> JitCode | None:
        index = self._index(address)
        return None if index is None else self.codes[index]

    def may_hold(self, address: int) -> Mapping | None:
        code = self.find(address)
        return None if code is None else Mapping(code.start, code.start + code.size, True, "")

    def name_of(self, code: JitCode) -> str:
        index = self._index(code.start)
        assert index is not None
        return self.names[index]

    def parts(self, jit_code: JitCode) -> list[Region]:
        start, shim, size = jit_code.start, jit_code.shim_size, jit_code.size
        body = Region(start + shim, size - shim, self.name_of(jit_code))
        return [Region(start, shim, SHIM_NAME, RegionKind.SHIM), body] if shim else [body]


def take(regions: Regions, frames: Sequence[Frames]) -> Dump:
    """All JIT code that is there now. What cannot be read is left out, with a warning of `regions`."""
    codes = [code for code in map(regions.find, regions.starts) if code is not None]
    shim = regions.entry_shim
    return Dump(
        regions.layout.version_text,
        codes,
        [regions.parts(code)[-1].name for code in codes],
        list(frames),
        shim,
        regions.memory.checked_read(shim.start, shim.size) if shim is not None else b"",
    )


def save(dump: Dump) -> bytes:
    """The bytes of the file."""
    pieces = []
    for code in dump.codes:
        functions = tuple((part.start, part.size, part.name) for part in dump.parts(code))
        pieces.append(Code(code.start, code.code, functions))
    if dump.entry_shim is not None:
        shim = dump.entry_shim
        pieces.append(Code(shim.start, dump.shim_code, ((shim.start, shim.size, shim.name),)))
    return code_file(Machine.X86_64, pieces, dump.frames, (OWNER, dump.version.encode()))


def load(path: Path) -> Dump:
    """The dump in the file at `path`. BadDump."""
    try:
        if path.stat().st_size > _LARGEST:
            raise BadDump(f"{path} is too large for a dump")
        return _loaded(path, ELFFile(io.BytesIO(path.read_bytes())))
    except OSError as error:
        raise BadDump(f"{path} cannot be read: {error.strerror}") from None
    except _DAMAGES as error:
        raise BadDump(f"{path} is no dump, or a damaged one: {error}") from None


_DAMAGES = (ELFError, struct.error, UnicodeDecodeError)
"""What pyelftools raises for files that are no ELF files, or damaged."""


def _loaded(path: Path, elf: ELFFile) -> Dump:
    version = _version(elf)
    if version is None:
        raise BadDump(f"{path} is an ELF file, but no dump of JIT code")
    if elf["e_machine"] != "EM_X86_64":
        raise BadDump(f"{path} is of {elf['e_machine']}, which cannot be audited yet", "known is x86_64")
    functions: dict[int, list[tuple[int, int, str]]] = {}
    table = elf.get_section_by_name(".symtab")
    if not isinstance(table, SymbolTableSection):
        raise BadDump(f"{path} has no symbols: it is damaged")
    for symbol in table.iter_symbols():
        if isinstance(symbol["st_shndx"], int):
            told = (symbol["st_value"], symbol["st_size"], symbol.name.removesuffix(" "))
            functions.setdefault(symbol["st_shndx"], []).append(told)
    found: list[tuple[JitCode, str]] = []
    dump = Dump(version, [], [])
    for index, section in enumerate(elf.iter_sections()):
        if section.name == ".eh_frame":
            dump.frames.append(Frames(section["sh_addr"], _whole(path, section)))
        elif section["sh_flags"] & _SHF_EXECINSTR:
            start, data = section["sh_addr"], _whole(path, section)
            symbols = sorted(functions.get(index, ()))
            if not symbols or not data:
                raise BadDump(f"{path}: the code at {start:#x} has no name, or is empty: it is damaged")
            first, size, name = symbols[0]
            if name != SHIM_NAME:
                found.append((JitCode(start, data, 0, 0), name))
            elif len(symbols) > 1 and first == start and size < len(data):
                found.append((JitCode(start, data, size, 0), symbols[1][2]))
            else:
                dump.entry_shim = Region(start, len(data), SHIM_NAME, RegionKind.SHIM)
                dump.shim_code = data
    found.sort(key=lambda each: each[0].start)
    dump.codes, dump.names = [code for code, _ in found], [name for _, name in found]
    return dump


def _whole(path: Path, section: Section) -> bytes:
    data: bytes = section.data()
    if len(data) != section["sh_size"]:
        raise BadDump(f"{path} is cut short")
    return data


def _version(elf: ELFFile) -> str | None:
    """What the note says that makes an ELF file a dump."""
    for section in elf.iter_sections():
        if isinstance(section, NoteSection):
            for note in section.iter_notes():
                if note["n_name"] == OWNER:
                    said: bytes = note["n_descdata"]
                    return said.decode()
    return None
