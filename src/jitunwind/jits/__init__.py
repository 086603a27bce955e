"""A JIT, to all who look at its code: which code lies at an address, how that is entered, what it is called.

`jits.known` makes those of a process, from its memory alone. CPython's is one of several (`jits.cpython`). What only
some of them can tell is in `jits.optional`.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from jitunwind.arch import Architecture, Convention
from jitunwind.memory import Mapping
from jitunwind.region import Line, Region, RegionKind
from jitunwind.rows import Row, UnwindTable


class Code(NamedTuple):
    """Machine code at `start` (64-bit address) that is recovered as a whole: its bytes, and how control comes into it.

    `entries` are (offset, row) by rising offset: the row that holds where control enters. `gate_size`: so many bytes at
    the start are a gate of the code's own, which C code enters at 0 and which calls the rest; 0 where there is none.
    `owner`: the address of the JIT's object for it, 0 where none is known.
    """

    start: int
    data: bytes
    entries: tuple[tuple[int, Row], ...]
    gate_size: int = 0
    owner: int = 0

    @property
    def size(self) -> int:
        return len(self.data)

    @property
    def end(self) -> int:
        return self.start + len(self.data)

    def function_at(self, pc: int) -> int:
        """The address of the entry that the function around `pc` begins with."""
        offset = pc - self.start
        return self.start + max((entry for entry, _ in self.entries if entry <= offset), default=0)

    def row_of_rest(self) -> Row:
        """What holds where control enters the code behind the gate."""
        return dict(self.entries)[self.gate_size]


class Jit(Protocol):
    """The code of one JIT in a process that stands still, or in a dump."""

    @property
    def name(self) -> str:
        """`CPython 3.14.10`, `GDB's JIT interface`: for people."""

    @property
    def warnings(self) -> list[str]:
        """What was wrong with the process's own account of its code, so far."""

    def may_hold(self, pc: int) -> Mapping | None:
        """The range around `pc` that may hold its code; None: there is none at `pc`. Cheap: asked for every frame."""

    def find(self, pc: int) -> Code | None:
        """The code that `pc` lies in, as it is in memory; None where there is none."""

    @property
    def starts(self) -> Sequence[int]:
        """Where each `Code` begins, rising."""

    def pieces(self, code: Code) -> Sequence[Region]:
        """The code as named regions, without gaps: its own gate, where it has one, and the rest."""

    def lines(self, code: Code) -> Sequence[Line]:
        """The lines of its source, by rising offset; empty where none are known."""

    def gates(self) -> Sequence[Region]:
        """Code outside of all `Code`, in a file, through which C code enters this JIT's; its file has unwind
        information for it."""

    def is_current(self) -> bool:
        """Whether no code has come or gone since this was made. To be asked when the process has run: afterwards what
        was found is compared with memory anew."""


def entry_row(arch: Architecture, table: UnwindTable | None, convention: Convention) -> Row:
    """The row at the first instruction of a function, by its JIT's own `table` (None: there is none); where that does
    not tell how it is called, by `convention`."""
    row = table.at(0) if table is not None else None
    return row if isinstance(row, Row) else arch.at_entry(convention)


def activation_starts(arch: Architecture, codes: Iterable[Code]) -> Iterator[int]:
    """The addresses at which C code can enter: there its own convention holds, and the caller's registers are in
    their places."""
    row = arch.at_entry(arch.platform)
    for code in codes:
        yield from (code.start + offset for offset, entry in code.entries if entry == row)


def codes_of(jit: Jit) -> list[Code]:
    """All code that can be read, by rising start."""
    return [code for code in map(jit.find, jit.starts) if code is not None]


def gate_at(jit: Jit, pc: int) -> Region | None:
    """The one of the JIT's gates that `pc` lies in."""
    return next((gate for gate in jit.gates() if pc in gate), None)


def lines_of_piece(code: Code, piece: Region, lines: Sequence[Line]) -> list[Line]:
    """The code's `lines` from the start of one of its pieces on; a gate has none."""
    if piece.kind is RegionKind.SHIM:
        return []
    first = piece.start - code.start
    return [Line(max(offset - first, 0), path, line) for offset, path, line in lines]
