"""What there is to explain: the JIT code of a process (live, or in a core), or of a dump, which is machine code and
no more. `model` asks one of these, and knows no other source."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from elftools.common.exceptions import ELFError

from jitunwind.arch import Architecture, known
from jitunwind.errors import CorruptState, JitunwindError, UnreadableMemory
from jitunwind.jits.cpython.dump import Dump
from jitunwind.jits.cpython.frames import running_executors
from jitunwind.jits.cpython.regions import JitCode, Regions
from jitunwind.jits.cpython.uops import MicroOp, MicroOps, Place
from jitunwind.recover.instructions import Instructions
from jitunwind.region import Line, Region
from jitunwind.rows import Row, Unknown, UnwindTable
from jitunwind.tables.sources import shim_table, shim_table_in

_NO_SHIM = Unknown("this interpreter's _PyJIT_Entry is not to be found")
_ONLY_CODE = Unknown("a dump has machine code, and no micro-ops")


class Piece(NamedTuple):
    """A micro-op, the bytecode instruction that it is part of, and its machine code: [start, end) in the region."""

    micro_op: MicroOp
    place: Place | None
    start: int
    end: int


class Subject(Protocol):
    """JIT code, and what is known of it. `names`: functions outside, by address."""

    architecture: Architecture

    @property
    def names(self) -> Mapping[int, str]: ...

    def codes(self) -> Sequence[JitCode]:
        """All regions, by rising address."""

    def parts(self, jit_code: JitCode) -> list[Region]:
        """A region's shim, where it has one of its own, and its body."""

    def count(self, code: JitCode) -> int | None:
        """How many micro-ops a region was compiled from, if that is known."""

    def begin(self, code: JitCode) -> tuple[str, int] | None:
        """The file and the line of Python with which a region begins, if they are known."""

    def threads(self, code: JitCode) -> tuple[int, ...] | None:
        """The threads (native ids) that say of themselves that they run a region; None where nobody was asked."""

    def pieces(self, code: JitCode) -> list[Piece] | Unknown:
        """A region's micro-ops, one behind the other."""

    def lines(self, code: JitCode) -> list[Line]:
        """The Python lines that a region's machine code tells by itself."""

    def shim_row(self) -> Row | Unknown:
        """What holds in the one shim of all bodies while it has called one; that there is one is known."""


class OfProcess:
    """JIT code in a process."""

    def __init__(self, regions: Regions) -> None:
        self._regions, self._micro_ops = regions, MicroOps(regions)
        self._running = running_executors(regions.memory, regions.layout)
        self.architecture = regions.memory.architecture
        self.names = regions.memory.names()
        self.parts = regions.parts
        self.lines = regions.lines

    def codes(self) -> list[JitCode]:
        return [code for code in map(self._regions.find, self._regions.starts) if code is not None]

    def count(self, code: JitCode) -> int | None:
        try:
            return self._micro_ops.count(code)
        except (UnreadableMemory, CorruptState):
            return None

    def begin(self, code: JitCode) -> tuple[str, int] | None:
        try:
            place = self._micro_ops.begin(code)
        except (UnreadableMemory, CorruptState):
            place = None
        if place is not None and (line := place.line) is not None:
            return place.code.filename, line
        lines = self._regions.lines(code)
        return (lines[0].filename, lines[0].line) if lines else None

    def threads(self, code: JitCode) -> tuple[int, ...] | None:
        return tuple(self._running.get(code.executor, ()))

    def pieces(self, code: JitCode) -> list[Piece] | Unknown:
        try:
            trace = self._micro_ops.trace(code)
            offsets = self._micro_ops.offsets(code, trace)
            if isinstance(offsets, Unknown):
                return offsets
            places = self._micro_ops.places(code, trace)
        except (UnreadableMemory, CorruptState) as error:
            return Unknown(str(error))
        return [Piece(*each) for each in zip(trace, places, offsets, offsets[1:], strict=False)]

    def shim_row(self) -> Row | Unknown:
        shim, memory = self._regions.entry_shim, self._regions.memory
        if shim is None:
            return _NO_SHIM
        try:
            code = memory.checked_read(shim.start, shim.size)
            return _row_at_call(self.architecture, shim_table(self.architecture, shim, memory), code)
        except (JitunwindError, ELFError, OSError, StopIteration) as error:
            return Unknown(f"the unwind information of _PyJIT_Entry: {error}")


class OfDump:
    """JIT code in a dump."""

    def __init__(self, dump: Dump) -> None:
        self._dump = dump
        self.architecture = dump.architecture
        self.names: dict[int, str] = {}
        self.parts = dump.parts

    def codes(self) -> list[JitCode]:
        return self._dump.codes

    def count(self, code: JitCode) -> int | None:
        return None

    def begin(self, code: JitCode) -> tuple[str, int] | None:
        return None

    def threads(self, code: JitCode) -> tuple[int, ...] | None:
        return None

    def pieces(self, code: JitCode) -> list[Piece] | Unknown:
        return _ONLY_CODE

    def lines(self, code: JitCode) -> list[Line]:
        return []

    def shim_row(self) -> Row | Unknown:
        if self._dump.entry_shim is None:
            return _NO_SHIM
        try:
            table = shim_table_in(self.architecture, self._dump.entry_shim, self._dump.frames)
            return _row_at_call(self.architecture, table, self._dump.shim_code)
        except JitunwindError as error:
            return Unknown(f"the unwind information of _PyJIT_Entry: {error}")


def _row_at_call(arch: Architecture, table: UnwindTable, shim: bytes) -> Row | Unknown:
    """The row for the caller of a body, in the shim's code `shim`: it has one indirect call."""
    call = Instructions(arch, known.decoder(arch), shim, {0: arch.at_entry(arch.platform)}).call_of(None)
    return table.at(call.offset) if call is not None else Unknown("it calls nothing")
