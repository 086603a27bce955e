"""A jitdump file (the kernel's tools/perf/Documentation/jitdump-specification.txt): what a JIT leaves for perf.

In come the file's bytes; out come the code that it tells of, with names, lines and unwind tables. `JitDump` is that of
a process, as one of its JITs.
"""

import os
import re
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from jitunwind.arch import Architecture, Convention, known
from jitunwind.arch.effects import Decoder
from jitunwind.dwarf.decode import eh_frame, table_of
from jitunwind.errors import MalformedFrames, UnreadableMemory
from jitunwind.jits import Code, entry_row
from jitunwind.jits.ranges import code_ranges, range_around
from jitunwind.memory import Mapping, Memory
from jitunwind.recover.table import recover
from jitunwind.region import Line, Region
from jitunwind.rows import Row, UnwindTable

_HEADER = struct.Struct("<6I2Q")
"""Magic, version, size of this header, ELF machine, padding, pid, timestamp, flags (section III)."""
_MAGIC = 0x4A695444
_PREFIX = struct.Struct("<2IQ")
"""Of each record: its kind, its size with this, a timestamp (section IV)."""
_LOAD = struct.Struct("<2I4Q")
"""Pid, tid, vma, address, size, index; then a name and the code (section V)."""
_MOVE = struct.Struct("<2I5Q")
"""Pid, tid, vma, old address, new address, size, index (section VI)."""
_DEBUG_INFO, _LINE = struct.Struct("<2Q"), struct.Struct("<Q2I")
"""Code address and number of lines; of each line its address, number and column, and then the file's name, where
"\\xff\\0" repeats the one before (section VII)."""
_UNWINDING = struct.Struct("<3Q")
"""Size of `.eh_frame` and `.eh_frame_hdr`, of the latter, and of what is mapped; then the two (section VIII)."""
_SAME_NAME = b"\xff"
_LARGEST = 1 << 30
_LARGEST_CODE = 1 << 24
_FILE = re.compile(r"/jit-\d+\.dump$")


class _Kind(IntEnum):
    LOAD = 0
    MOVE = 1
    DEBUG_INFO = 2
    UNWINDING_INFO = 4


class Loaded(NamedTuple):
    """A piece of code, as the file has it; `unwinding` is its `.eh_frame`, for code at `loaded_at`; `lines` count from
    its start."""

    start: int
    data: bytes
    name: str
    loaded_at: int
    unwinding: bytes = b""
    lines: tuple[Line, ...] = ()

    @property
    def end(self) -> int:
        return self.start + len(self.data)

    def fdes(self, arch: Architecture) -> list[tuple[int, int, UnwindTable]]:
        """(start, size, table) of each. MalformedFrames.

        The bytes are as if they lay behind the code, at the next multiple of 8: so perf places them
        (tools/perf/util/genelf.c)."""
        by = self.start - self.loaded_at
        found = eh_frame(self.unwinding, self.loaded_at + (len(self.data) + 7) // 8 * 8)
        return [(fde.start + by, fde.size, table_of(fde, arch.same_value_by_default)) for fde in found]


def code_in(data: bytes) -> list[Loaded]:
    """All code of a file, by rising start; where it came to lie over other code, the later. Records on lines and
    unwinding are about the load behind them. MalformedFrames, struct.error."""
    if len(data) < _HEADER.size or _HEADER.unpack_from(data)[0] != _MAGIC:
        raise MalformedFrames("it does not begin as a little-endian jitdump file does")
    unwinding = b""
    lines: tuple[tuple[int, str, int], ...] = ()
    loaded: dict[int, Loaded] = {}
    """By the code's index."""
    for kind, body in _records(data):
        if kind == _Kind.UNWINDING_INFO:
            size, header_size, _ = _UNWINDING.unpack_from(body)
            unwinding = body[_UNWINDING.size :][: size - header_size]
        elif kind == _Kind.DEBUG_INFO:
            lines = tuple(_lines_of(body))
        elif kind == _Kind.LOAD:
            *_, address, size, index = _LOAD.unpack_from(body)
            name, _, code = body[_LOAD.size :].partition(b"\0")
            loaded.pop(index, None)
            loaded[index] = Loaded(
                address,
                code[:size],
                name.decode("utf-8", "replace"),
                address,
                unwinding,
                tuple(Line(max(at - address, 0), file, line) for at, file, line in lines),
            )
            unwinding, lines = b"", ()
        elif kind == _Kind.MOVE:
            *_, new, _, index = _MOVE.unpack_from(body)
            if index in loaded:
                loaded[index] = loaded.pop(index)._replace(start=new)
    found = {each.start: each for each in loaded.values()}
    return [found[start] for start in sorted(found)]


def frames_in(data: bytes, arch: Architecture) -> list[tuple[int, int, UnwindTable]]:
    """(start, size, table) of each FDE of a file. MalformedFrames, struct.error."""
    found = {fde[0]: fde for each in code_in(data) for fde in each.fdes(arch)}
    return [found[start] for start in sorted(found)]


def _records(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Each whole record's kind and body: the last one may be in the making."""
    at = _HEADER.unpack_from(data)[2]
    while at + _PREFIX.size <= len(data):
        kind, size, _ = _PREFIX.unpack_from(data, at)
        if size < _PREFIX.size:
            raise MalformedFrames(f"the jitdump record at +{at:#x} has a size of {size}")
        if at + size > len(data):
            return
        yield kind, data[at + _PREFIX.size : at + size]
        at += size


def _lines_of(body: bytes) -> Iterator[tuple[int, str, int]]:
    """(address, file, line) of each line of such a record."""
    _, count = _DEBUG_INFO.unpack_from(body)
    at, file = _DEBUG_INFO.size, b""
    while count and at + _LINE.size < len(body):
        address, line, _ = _LINE.unpack_from(body, at)
        name, end, _ = body[at + _LINE.size :].partition(b"\0")
        if not end:
            return
        file = file if name == _SAME_NAME else name
        yield address, file.decode("utf-8", "replace"), line
        at += _LINE.size + len(name) + 1
        count -= 1


_UNSTATED = "not stated"


class JitDump:
    """The code of the jitdump files that the process in `memory` has mapped: that is how perf finds them, too. Code is
    believed only where memory fits what the file says of it: a file tells of what has gone as well."""

    name = "a jitdump file"

    def __init__(self, memory: Memory, decoder_at: Callable[[int], Decoder] | None = None) -> None:
        self.memory, self.arch, self._decoder_at = memory, memory.architecture, decoder_at
        self.warnings: list[str] = []
        mappings = memory.mappings()
        self.ranges = code_ranges(memory)
        self._paths = sorted({mapping.path for mapping in mappings if _FILE.search(mapping.path)})
        self._sizes: list[int] | None = None
        self._loaded: list[Loaded] = []
        self._starts: list[int] = []
        self._verified: dict[int, Code | None] = {}

    def may_hold(self, pc: int) -> Mapping | None:
        return range_around(self.ranges, pc) if self._paths else None

    def find(self, pc: int) -> Code | None:
        if self.may_hold(pc) is None:
            return None
        self._read()
        loaded = self._at(pc)
        if loaded is None:
            return None
        if loaded.start not in self._verified:
            self._verified[loaded.start] = self._code(loaded)
        return self._verified[loaded.start]

    @property
    def starts(self) -> Sequence[int]:
        self._read()
        return self._starts

    def pieces(self, code: Code) -> Sequence[Region]:
        loaded = self._at(code.start)
        return (Region(code.start, code.size, loaded.name if loaded is not None else f"{code.start:#x}"),)

    def lines(self, code: Code) -> Sequence[Line]:
        loaded = self._at(code.start)
        return loaded.lines if loaded is not None else ()

    def gates(self) -> Sequence[Region]:
        return ()

    def is_current(self) -> bool:
        self._verified.clear()
        mappings = self.memory.mappings()
        paths = sorted({mapping.path for mapping in mappings if _FILE.search(mapping.path)})
        if self._sizes is not None and self._sizes != [_size(path) for path in self._paths]:
            return False
        return paths == self._paths and code_ranges(self.memory) == self.ranges

    def _read(self) -> None:
        if self._sizes is not None:
            return
        self._sizes = [_size(path) for path in self._paths]
        found: dict[int, Loaded] = {}
        for path, size in zip(self._paths, self._sizes, strict=True):
            try:
                if size > _LARGEST:
                    raise MalformedFrames(f"it has {size:,} bytes")
                for loaded in code_in(Path(path).read_bytes()):
                    if 0 < len(loaded.data) <= _LARGEST_CODE:
                        found[loaded.start] = loaded
            except (OSError, struct.error, MalformedFrames) as error:
                self.warnings.append(f"{path} is not understood: {error}")
        self._loaded = [found[start] for start in sorted(found)]
        self._starts = [each.start for each in self._loaded]

    def _at(self, pc: int) -> Loaded | None:
        index = bisect_right(self._starts, pc) - 1
        loaded = self._loaded[index] if index >= 0 else None
        return loaded if loaded is not None and pc < loaded.end else None

    def _code(self, loaded: Loaded) -> Code | None:
        try:
            data = self.memory.checked_read(loaded.start, len(loaded.data))
        except UnreadableMemory:
            return None
        try:
            fdes = loaded.fdes(self.arch)
        except MalformedFrames as error:
            self.warnings.append(f"the unwind information of {loaded.name} is not understood: {error}")
            fdes = []
        table = next((table for start, _, table in fdes if start == loaded.start), None)
        # Nobody says which registers such code preserves: what is not followed is not known.
        unstated = Convention(_UNSTATED, preserved=(self.arch.frame_pointer,))
        code = Code(loaded.start, data, ((0, entry_row(self.arch, table, unstated)),))
        return code if data == loaded.data or (table is not None and self._fits(code, table)) else None

    def _fits(self, code: Code, table: UnwindTable) -> bool:
        """Whether a table describes code whose bytes are others than the file's, as those are that CPython 3.15 writes
        for its trampolines: the stack changes where the table says that it does, and nowhere else."""
        decode = self._decoder_at(code.start) if self._decoder_at else known.decoder(self.arch)
        recovered = recover(self.arch, code.data, decode, dict(code.entries))
        is_whole = all(isinstance(row, Row) for row in recovered.rows)
        return is_whole and len(recovered.offsets) > 1 and set(recovered.offsets) <= set(table.offsets)


def _size(path: str) -> int:
    """Of the file; -1 where there is none."""
    try:
        return os.stat(path).st_size
    except OSError:
        return -1
