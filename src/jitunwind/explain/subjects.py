"""What there is to explain: the code of a process's JITs (live, or in a core), or of a dump, which is machine code and
no more. `model` asks one of these, and knows no other source."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from jitunwind.arch import Architecture, known
from jitunwind.errors import UnreadableMemory
from jitunwind.jits import Code, codes_of
from jitunwind.jits.dump import Dump
from jitunwind.jits.known import Jits
from jitunwind.jits.optional import Step, Traced
from jitunwind.recover.instructions import Instructions
from jitunwind.region import Line, Region
from jitunwind.rows import Row, Unknown, UnwindTable
from jitunwind.tables.sources import gate_table, gate_table_in

_NO_GATE = Unknown("what C code enters this code by is not to be found")
_ONLY_CODE = Unknown("a dump has machine code, and no micro-ops")
_NO_STEPS = Unknown("its JIT does not tell what it made the code of")


class Subject(Protocol):
    """JIT code, and what is known of it. `names`: functions outside, by address."""

    architecture: Architecture

    @property
    def names(self) -> Mapping[int, str]: ...

    def codes(self) -> Sequence[Code]:
        """All there is, by rising address."""

    def pieces(self, code: Code) -> Sequence[Region]:
        """The code's own gate, where it has one, and the rest."""

    def count(self, code: Code) -> int | None:
        """How many operations (CPython: micro-ops) code was compiled from, if that is known."""

    def begin(self, code: Code) -> tuple[str, int] | None:
        """The file and the line of the source with which code begins, if they are known."""

    def threads(self, code: Code) -> tuple[int, ...] | None:
        """The threads (native ids) that say of themselves that they run code; None where nobody was asked."""

    def steps(self, code: Code) -> list[Step] | Unknown:
        """Its operations, one behind the other."""

    def lines(self, code: Code) -> Sequence[Line]:
        """The lines of the source that the code tells by itself."""

    def gate_row(self) -> Row | Unknown:
        """What holds in the one gate of all code while it has called some; that there is one is known."""


class OfProcess:
    """JIT code in a process."""

    def __init__(self, jits: Jits) -> None:
        self._jits = jits
        self.architecture = jits.architecture
        self.names = jits.memory.names()
        self.pieces = jits.pieces
        self.lines = jits.lines

    def codes(self) -> list[Code]:
        return codes_of(self._jits)

    def count(self, code: Code) -> int | None:
        traced = self._jits.teller(code, Traced)
        return traced.count(code) if traced is not None else None

    def begin(self, code: Code) -> tuple[str, int] | None:
        traced = self._jits.teller(code, Traced)
        if traced is not None:
            return traced.begin(code)
        first = next(iter(self.lines(code)), None)
        return (first.filename, first.line) if first is not None else None

    def threads(self, code: Code) -> tuple[int, ...] | None:
        traced = self._jits.teller(code, Traced)
        return traced.threads(code) if traced is not None else None

    def steps(self, code: Code) -> list[Step] | Unknown:
        traced = self._jits.teller(code, Traced)
        return traced.steps(code) if traced is not None else _NO_STEPS

    def gate_row(self) -> Row | Unknown:
        gate, memory = next(iter(self._jits.gates()), None), self._jits.memory
        if gate is None:
            return _NO_GATE
        try:
            code = memory.checked_read(gate.start, gate.size)
        except UnreadableMemory as error:
            return Unknown(f"the code of {gate.name}: {error}")
        return _row_at_call(self.architecture, gate_table(self.architecture, gate, memory), code)


class OfDump:
    """JIT code in a dump."""

    def __init__(self, dump: Dump) -> None:
        self._dump = dump
        self.architecture = dump.architecture
        self.names: dict[int, str] = {}
        self.pieces = dump.pieces
        self.lines = dump.lines

    def codes(self) -> list[Code]:
        return self._dump.codes

    def count(self, code: Code) -> int | None:
        return None

    def begin(self, code: Code) -> tuple[str, int] | None:
        return None

    def threads(self, code: Code) -> tuple[int, ...] | None:
        return None

    def steps(self, code: Code) -> list[Step] | Unknown:
        return _ONLY_CODE

    def gate_row(self) -> Row | Unknown:
        if self._dump.gate is None:
            return _NO_GATE
        table = gate_table_in(self.architecture, self._dump.gate, self._dump.frames)
        return _row_at_call(self.architecture, table, self._dump.gate_code)


def _row_at_call(arch: Architecture, table: UnwindTable | Unknown, gate: bytes) -> Row | Unknown:
    """The row for the caller of code, in its gate, which has one indirect call."""
    if isinstance(table, Unknown):
        return table
    call = Instructions(arch, known.decoder(arch), gate, {0: arch.at_entry(arch.platform)}).call_of(None)
    return table.at(call.offset) if call is not None else Unknown("it calls nothing")
