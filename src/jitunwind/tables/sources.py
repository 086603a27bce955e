"""Tables under test: for each program counter in JIT code, the row that somebody says holds there."""

import io
import re
import struct
from bisect import bisect_right
from collections.abc import Iterable
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Protocol

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from jitunwind.arch import Architecture
from jitunwind.arch.effects import Decoder
from jitunwind.dwarf.decode import alone, eh_frame, table_of
from jitunwind.dwarf.encode import eh_frame as encode
from jitunwind.dwarf.frames import EhFrame
from jitunwind.elf.sections import sections
from jitunwind.errors import JitunwindError, MalformedFrames, NotElf
from jitunwind.jits import Code
from jitunwind.jits.dump import Dump
from jitunwind.jits.jitdump import frames_in
from jitunwind.jits.registered import JitInterface
from jitunwind.memory import Memory
from jitunwind.memory.backing import BackingFiles
from jitunwind.publishing.described import frames_of
from jitunwind.recover.table import recover
from jitunwind.region import Region
from jitunwind.rows import Row, Unknown, UnwindTable

_ELF = b"\x7fELF"
_JITDUMP = re.compile(r"/jit-\d+\.dump$")
NOTHING_PUBLISHED = Unknown("the process has published nothing for this code")
NOTHING_IN_FILE = Unknown("the file has nothing for this code")
Frame = tuple[int, int, UnwindTable]
"""(start, size, table) of an FDE."""
_Place = tuple[tuple[tuple[int, Row], ...], bytes]
"""The entries of code, and its bytes."""


class Tables(Protocol):
    """One source of rows."""

    name: str

    def of(self, region: Code) -> UnwindTable:
        """The table of a region as it is now."""

    def encoded(self, codes: Iterable[Code]) -> list[EhFrame]:
        """The bytes that readers of it get: those of `codes` at least, all the JIT code there is."""

    def forget(self) -> None:
        """JIT code has come or gone."""


class Recovered:
    """jitunwind's own: recovered from the machine code."""

    name = "recovered"

    def __init__(self, arch: Architecture, decode: Decoder) -> None:
        self._arch, self._decode = arch, decode
        self._known: dict[_Place, UnwindTable] = {}
        self._encoded: dict[tuple[int, _Place], EhFrame] = {}

    def encoded(self, codes: Iterable[Code]) -> list[EhFrame]:
        """As they would be published."""
        keys = {(code.start, (code.entries, code.data)): code for code in codes}
        self._encoded = {
            key: self._encoded.get(key) or EhFrame(0, frames_of(self._arch, code.start, self.of(code)))
            for key, code in keys.items()
        }
        return list(self._encoded.values())

    def of(self, region: Code) -> UnwindTable:
        key = (region.entries, region.data)
        table = self._known.get(key)
        if table is None:
            table = self._known[key] = recover(self._arch, region.data, self._decode, dict(region.entries))
        return table

    def forget(self) -> None:
        pass


class Published:
    """What the process itself has registered through the GDB JIT interface, or else left in a jitdump file, at
    the time of asking.

    The interface: GDB manual, "JIT Compilation Interface": a descriptor {version, action, relevant entry,
    first entry} and a list of entries {next, previous, address of an ELF object, its size}. A jitdump is known by
    its name and by its being mapped, which is how perf finds it.
    """

    name = "published"

    def __init__(self, arch: Architecture, memory: Memory) -> None:
        self._arch, self._memory = arch, memory
        self._tables: _Laid | None = None
        self._images: dict[bytes, list[EhFrame]] = {}
        self._decoded: dict[EhFrame, list[Frame]] = {}
        self.warnings: list[str] = []
        self._interface = JitInterface(memory, self.warnings)

    def of(self, region: Code) -> UnwindTable:
        if self._tables is None:
            self._tables = _Laid(self._read(), NOTHING_PUBLISHED)
        return self._tables.over(region.start, region.size)

    def forget(self) -> None:
        self._tables = None

    def _read(self) -> Iterable[Frame]:
        found: dict[int, Frame] = {}
        for frames in self._registered():
            if frames not in self._decoded:
                self._decoded[frames] = understood([frames], self._arch, self.warnings)
            for each in self._decoded[frames]:
                found.setdefault(each[0], each)
        for each in self._jitdump():
            found.setdefault(each[0], each)
        return found.values()

    def encoded(self, codes: Iterable[Code] = ()) -> list[EhFrame]:
        """The bytes of what is published; of a jitdump's, that say the same."""
        found = self._registered()
        for start, size, table in self._jitdump():
            address = start + size + 7 & ~7
            found.append(EhFrame(address, encode(self._arch, [(start, table)], address)))
        return found

    def _registered(self) -> list[EhFrame]:
        images = {data: None for data in map(self._interface.image, self._interface.entries()) if data}
        self._images = {data: self._images.get(data) or self._frames(data) for data in images}
        return [frames for each in self._images.values() for frames in each]

    def _jitdump(self) -> list[Frame]:
        paths = {mapping.path for mapping in self._memory.mappings() if _JITDUMP.search(mapping.path)}
        found: list[Frame] = []
        for path in sorted(paths):
            try:
                found += frames_in(Path(path).read_bytes(), self._arch)
            except (OSError, struct.error, MalformedFrames) as error:
                self.warnings.append(f"{path} is not understood: {error}")
        return found

    def _frames(self, image: bytes) -> list[EhFrame]:
        try:
            return self._interface.frames(image, sections(image))
        except NotElf as error:
            self.warnings.append(f"a published object {error}")
            return []


class Given:
    """Rows that lie ready, as FDEs: of a file, or of a dump. `nothing` stands where there is none."""

    def __init__(self, name: str, sections: list[EhFrame], frames: Iterable[Frame], nothing: Unknown) -> None:
        self.name = name
        self.warnings: list[str] = []
        self._sections = sections
        self._tables = _Laid(frames, nothing)

    def encoded(self, codes: Iterable[Code]) -> list[EhFrame]:
        return self._sections

    def of(self, region: Code) -> UnwindTable:
        return self._tables.over(region.start, region.size)

    def forget(self) -> None:
        pass


def from_file(arch: Architecture, path: Path) -> Given:
    """The `.eh_frame` of an ELF object whose addresses are those of the process: what a JIT would publish.

    NotElf, MalformedFrames; OSError where it cannot be read.
    """
    data = path.read_bytes()
    if not data.startswith(_ELF):
        raise NotElf(f"{path} is no ELF object", "give one whose .eh_frame has the addresses of the process")
    try:
        sections = sections_in(data)
        return Given(str(path), sections, decoded(sections, arch), NOTHING_IN_FILE)
    except JitunwindError:
        raise
    except Exception as problem:  # pyelftools meets damaged files with whatever its code runs into
        raise NotElf(f"{path} is damaged or cut short: {problem or type(problem).__name__}") from None


def from_dump(arch: Architecture, dump: Dump) -> Given:
    """What the process that a dump is of had published."""
    warnings: list[str] = []
    frames = understood(dump.frames, arch, warnings)
    found = Given(Published.name, dump.frames, frames, NOTHING_PUBLISHED)
    found.warnings = warnings
    return found


def sections_in(image: bytes) -> list[EhFrame]:
    """Each `.eh_frame` of an ELF object: a dump has many. ELFError."""
    sections = ELFFile(io.BytesIO(image)).iter_sections()
    return [EhFrame(each["sh_addr"], each.data()) for each in sections if each.name == ".eh_frame"]


def decoded(frames: Iterable[EhFrame], arch: Architecture) -> list[Frame]:
    """Each FDE's table. MalformedFrames."""
    return [
        (fde.start, fde.size, table_of(fde, arch.same_value_by_default))
        for address, data in frames
        for fde in eh_frame(data, address)
    ]


def understood(frames: Iterable[EhFrame], arch: Architecture, warnings: list[str]) -> list[Frame]:
    """The same, but that what breaks the rules is left out, with a warning."""
    found: list[Frame] = []
    for each in frames:
        try:
            found += decoded([each], arch)
        except MalformedFrames as error:
            warnings.append(f"the frames published at {each.address:#x} are not understood: {error}")
    return found


class _Laid:
    """FDEs, laid over regions: where none of them is, there is `nothing`."""

    def __init__(self, frames: Iterable[Frame], nothing: Unknown) -> None:
        self._frames = sorted(frames, key=lambda frame: frame[0])
        self._nothing = nothing
        self._known: dict[tuple[int, int], UnwindTable] = {}

    def over(self, start: int, size: int) -> UnwindTable:
        """The table of the region [start, start + size)."""
        key = (start, size)
        if key not in self._known:
            self._known[key] = self._lay(start, size)
        return self._known[key]

    def _lay(self, start: int, size: int) -> UnwindTable:
        """A region may have several FDEs: one ends where there is no row for what follows."""
        offsets: list[int] = []
        rows: list[Row | Unknown] = []
        at = 0
        index = max(bisect_right(self._frames, start, key=lambda frame: frame[0]) - 1, 0)
        for begin, length, table in islice(self._frames, index, None):
            by = begin - start
            if by >= size:
                break
            if by > at:
                offsets.append(at)
                rows.append(self._nothing)
                at = by
            for offset, end, row in table.spans():
                first = max(offset + by, at)
                if first < min(end + by, size):
                    offsets.append(first)
                    rows.append(row)
            at = max(at, by + length)
        if at < size:
            offsets.append(at)
            rows.append(self._nothing)
        return UnwindTable(size, offsets, rows)


def gate_table(arch: Architecture, gate: Region, memory: Memory) -> UnwindTable | Unknown:
    """The compiler's own table of a gate, which is ordinary code of a file."""
    frames = gate_frames(gate, memory)
    return frames if isinstance(frames, Unknown) else gate_table_in(arch, gate, [frames])


def gate_table_in(arch: Architecture, gate: Region, frames: Iterable[EhFrame]) -> UnwindTable | Unknown:
    """The same, of frames at hand."""
    for start, size, table in understood(frames, arch, []):
        if start <= gate.start < start + size:
            return _Laid([(start, size, table)], NOTHING_IN_FILE).over(gate.start, gate.size)
    return Unknown(f"there is no unwind information for {gate.name}")


def gate_frames(gate: Region, memory: Memory) -> EhFrame | Unknown:
    """What a gate's file has for it, and no more of it."""
    mappings = memory.mappings()
    path = next((mapping.path for mapping in mappings if mapping.start <= gate.start < mapping.end), "")
    base = min((mapping.start for mapping in mappings if mapping.path == path), default=0)
    try:
        found = _frames_in_file(_place_of(memory, gate, path), base, gate.start)
    except (JitunwindError, ELFError, OSError) as error:
        return Unknown(f"the unwind information of {gate.name}: {error}")
    return found or Unknown(f"{path} has no unwind information for {gate.name}")


def _place_of(memory: Memory, gate: Region, path: str) -> str:
    """Where the file that the process calls `path` can be opened here: it may be deleted, or in a container."""
    files = getattr(memory, "files", None)
    found = files.at(gate.start) if isinstance(files, BackingFiles) else None
    return path if found is None or found.place is None else found.place


@cache
def _frames_in_file(path: str, base: int, function: int) -> EhFrame | None:
    """What the file at `path`, which lies at `base`, has for the function there."""
    with open(path, "rb") as file:
        elf = ELFFile(file)
        bias = base if elf["e_type"] == "ET_DYN" else 0
        section = elf.get_section_by_name(".eh_frame")
        data, address = (section.data(), section["sh_addr"] + bias) if section is not None else (b"", 0)
        for fde in eh_frame(data, address):
            if fde.start <= function < fde.start + fde.size:
                return EhFrame(*alone(data, address, fde))
    return None
