"""JIT code taken out of a process: its bytes, names and published frames, as an object and as a file.

`take` makes one of a process's `Regions`, `save` and `load` put it into a file and get it back: an ELF object with
a `.text` at each piece's address, symbols, and the `.eh_frame`s, which objdump, readelf and GDB read as well. An
audit that runs nothing works on this, wherever the code comes from.
"""

import struct
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from jitunwind.arch import Architecture
from jitunwind.arch.known import ARCHITECTURES, of_machine
from jitunwind.elf.image import Code, code_file
from jitunwind.errors import BadDump
from jitunwind.jits.cpython.regions import ENTRY_NAME, SHIM_NAME, JitCode, Regions
from jitunwind.memory import ADDRESS_LIMIT, Mapping
from jitunwind.region import Region, RegionKind

OWNER = "jitunwind"
_SHT_NULL, _SHT_NOTE, _SHT_NOBITS = 0, 7, 8
_SHF_EXECINSTR = 4
_E_MACHINE, _E_SHOFF, _E_SHENTSIZE = 18, 40, 58
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
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
    architecture: Architecture
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
        regions.memory.architecture,
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
    return code_file(dump.architecture.elf_machine, pieces, dump.frames, (OWNER, dump.version.encode()))


def load(path: Path) -> Dump:
    """The dump in the file at `path`. BadDump."""
    try:
        if path.stat().st_size > _LARGEST:
            raise BadDump(f"{path} is too large for a dump")
        data = path.read_bytes()
    except OSError as error:
        raise BadDump(f"{path} cannot be read: {error.strerror}") from None
    try:
        return _loaded(data)
    except struct.error:
        raise BadDump(f"{path} is cut short, or damaged") from None
    except BadDump as error:
        raise BadDump(f"{path} {error}", error.hint) from None


class _Section(NamedTuple):
    name: str
    type: int
    flags: int
    address: int
    data: bytes


def _loaded(data: bytes) -> Dump:
    """BadDump, whose message begins behind the file's name; struct.error where something is cut short."""
    if data[:6] != b"\x7fELF\x02\x01":
        raise BadDump("is no dump of JIT code")
    sections = _sections(data)
    version = next(
        (said for each in sections if each.type == _SHT_NOTE if (said := _version(each.data))), None
    )
    if version is None:
        raise BadDump("is an ELF file, but no dump of JIT code")
    (machine,) = struct.unpack_from("<H", data, _E_MACHINE)
    arch = of_machine(machine)
    if arch is None:
        raise BadDump(f"is of machine {machine}", f"known are {' and '.join(ARCHITECTURES)}")
    symbols = next((each.data for each in sections if each.name == ".symtab"), b"")
    names = next((each.data for each in sections if each.name == ".strtab"), b"")
    functions: dict[int, list[tuple[int, int, str]]] = {}
    for name_at, _, _, index, start, size in _SYMBOL.iter_unpack(symbols):
        functions.setdefault(index, []).append((start, size, _string(names, name_at).removesuffix(" ")))
    found: list[tuple[JitCode, str]] = []
    dump = Dump(version, arch, [], [])
    for index, section in enumerate(sections):
        start, code = section.address, section.data
        if section.name == ".eh_frame":
            dump.frames.append(Frames(start, code))
        elif section.flags & _SHF_EXECINSTR:
            here = sorted(functions.get(index, ()))
            if not here or not code or start + len(code) > ADDRESS_LIMIT:
                raise BadDump(f"is damaged: the code at {start:#x} has no name, or is none")
            first, size, name = here[0]
            if name not in (SHIM_NAME, ENTRY_NAME):
                found.append((JitCode(start, code, 0, 0), name))
            elif len(here) > 1 and first == start and 0 < size < len(code):
                found.append((JitCode(start, code, size, 0), here[1][2]))
            else:
                dump.entry_shim = Region(start, len(code), ENTRY_NAME, RegionKind.SHIM)
                dump.shim_code = code
    found.sort(key=lambda each: each[0].start)
    if any(one.start + one.size > other.start for (one, _), (other, _) in pairwise(found)):
        raise BadDump("is damaged: its regions overlap")
    dump.codes, dump.names = [code for code, _ in found], [name for _, name in found]
    return dump


def _sections(data: bytes) -> list[_Section]:
    """gABI, "Sections". Own code: a damaged file must not ask for the machine's memory."""
    (table,) = struct.unpack_from("<Q", data, _E_SHOFF)
    size, count, names_index = struct.unpack_from("<HHH", data, _E_SHENTSIZE)
    if table + size * count > len(data):
        raise BadDump("is cut short")
    if size != _SECTION.size or names_index >= count:
        raise BadDump("is damaged: its section headers make no sense")
    headers = [_SECTION.unpack_from(data, table + index * size) for index in range(count)]
    contents = []
    for _, kind, _, _, offset, length, *_ in headers:
        if kind in (_SHT_NULL, _SHT_NOBITS):
            offset = length = 0
        if offset + length > len(data):
            raise BadDump("is cut short")
        contents.append(data[offset : offset + length])
    names = contents[names_index]
    return [
        _Section(_string(names, name), kind, flags, address, content)
        for (name, kind, flags, address, *_), content in zip(headers, contents, strict=True)
    ]


def _string(table: bytes, at: int) -> str:
    return table[at : table.find(b"\0", at)].decode("utf-8", "replace")


def _version(note: bytes) -> str | None:
    """What the note says that makes an ELF file a dump; None for another's."""
    owner, said, _ = struct.unpack_from("<III", note)
    start = 12 + (owner + 3 & ~3)
    if note[12 : 12 + owner] != OWNER.encode() + b"\0" or start + said > len(note):
        return None
    return note[start : start + said].decode("utf-8", "replace")
