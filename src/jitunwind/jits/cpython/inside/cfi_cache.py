"""Unwind tables of executors as they are published: recovered once where CPython compiles a loop again and again.

3.14 does so where it drops code that it takes for cold: the machine code is the same then, but for the constants in
it, which say nothing to an unwinder.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from jitunwind.arch import Architecture
from jitunwind.arch.known import decoder
from jitunwind.dwarf.encode import moved
from jitunwind.jits import Code
from jitunwind.jits.cpython import stencils
from jitunwind.publishing.described import frames_of
from jitunwind.recover.table import known_at_entry, recover
from jitunwind.rows import UnwindTable

_MOST = 512
_MOST_OF_A_SIZE = 8
_MOST_BYTES = 1 << 20
_CONSTANT_SIZE = 8


class Frames(NamedTuple):
    """The `.eh_frame` of an executor's code, to lie anywhere; and the one for perf, if that is another one."""

    eh_frame: bytes
    for_perf: bytes = b""

    def moved(self, distance: int) -> "Frames":
        return Frames(moved(self.eh_frame, distance), self.for_perf and moved(self.for_perf, distance))


class _Known(NamedTuple):
    """The frames of an executor's code, at `start`; the pieces between its constants, and their bytes."""

    start: int
    frames: Frames
    pieces: Sequence[tuple[int, int]]
    rest: bytes

    def is_of(self, code: bytes) -> bool:
        """Whether that code is the same but for the constants."""
        return _between(code, self.pieces) == self.rest


class CfiCache:
    """The `.eh_frame` bytes of executors. `for_perf` makes perf's table of a code's own; None: it gets none."""

    def __init__(
        self, arch: Architecture, for_perf: Callable[[Code, UnwindTable], UnwindTable | None] | None = None
    ) -> None:
        self._arch = arch
        self._for_perf = for_perf
        self._decode = decoder(arch)
        self._stencils = stencils.of(arch)
        self._has_constants = self._stencils.constants(b"") is not None
        self._of_size: dict[tuple[int, int], list[_Known]] = {}
        """By the sizes of the shim and of all, padding aside: nothing yet, where one such code has been met."""
        self._bytes = 0
        """Of all code that has been remembered."""

    def of(self, code: Code) -> Frames:
        """Those of all its code."""
        if not self._has_constants:
            return self._recovered(code)
        size = code.gate_size, len(code.data.rstrip(b"\0"))
        known = self._of_size.get(size)
        if known is None:
            if len(self._of_size) >= _MOST:
                self._of_size.clear()
            self._of_size[size] = []
            return self._recovered(code)
        for each in known:
            if each.is_of(code.data):
                return each.frames.moved(code.start - each.start)
        frames, pieces = self._recovered(code), self._pieces(code)
        del known[: 1 - _MOST_OF_A_SIZE]
        known.append(_Known(code.start, frames, pieces, _between(code.data, pieces)))
        self._bytes += code.size
        if self._bytes > _MOST_BYTES:
            self._of_size.clear()
            self._bytes = 0
        return frames

    def _pieces(self, code: Code) -> Sequence[tuple[int, int]]:
        """What is left of `code` between the constants of instructions, and what looks so behind all that is reached.
        Other code that is the same there is decoded the same, instruction by instruction."""
        starts: set[int] = set()
        for entry, row in code.entries:
            # As recovery does it: the same forms are known then.
            followed = {self._arch.stack_pointer, self._arch.return_address, *known_at_entry(row)}
            starts.update(self._decode(code.data, entry, followed)[1])
        end = max(starts)
        places = self._stencils.constants(code.data) or ()
        constants = [at for instruction, at in places if instruction in starts or instruction > end]
        return list(
            zip([0, *(at + _CONSTANT_SIZE for at in constants)], [*constants, code.size], strict=True)
        )

    def _recovered(self, code: Code) -> Frames:
        table = recover(self._arch, code.data, self._decode, dict(code.entries))
        eh_frame = frames_of(self._arch, code.start, table)
        other = self._for_perf(code, table) if self._for_perf is not None else None
        return Frames(eh_frame, frames_of(self._arch, code.start, other) if other is not None else b"")


def _between(code: bytes, pieces: Sequence[tuple[int, int]]) -> bytes:
    return b"".join([code[start:end] for start, end in pieces])
