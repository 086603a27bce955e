"""What the stencils and shims of CPython's JIT look like in machine code: one module per architecture, all with
the same names (`Stencils`).

They are read from the bytes alone, without a decoder: a debugger asks about every region it meets.
"""

from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

from jitunwind.arch import Architecture, Convention
from jitunwind.jits.cpython.layout import Layout
from jitunwind.jits.cpython.stencils.found import EntryShim, Shim, Store
from jitunwind.memory import Memory

__all__ = ["EntryShim", "Shim", "Stencils", "Store", "of"]


class Stencils(Protocol):
    """One architecture's."""

    CONVENTION: Convention
    """By which bodies are called."""

    def begins_shim(self, code: bytes, offset: int) -> bool:
        """Whether a shim begins at `offset`: what 3.14 puts before each executor's code."""

    def shim(self, code: bytes) -> Shim | None:
        """The shim that a 3.14 executor's machine code begins with."""

    def entry_shim(self, code: bytes, jit_code: int) -> EntryShim | None:
        """3.15's one shim in the interpreter's own machine code; it calls what is `jit_code` bytes into an
        executor."""

    def body_cfa(self, memory: Memory, frame_pointer: int, shim: int, returns: int) -> int | None:
        """The CFA of a body that 3.15's shim at address `shim` has called, to come back to `returns`: by the
        frame pointer, which bodies leave alone. None, if that is not what the shim has set it to.
        UnreadableMemory."""

    def warmed(self, code: bytes, start: int, body: int, warm: int) -> int | None:
        """The address of the executor whose flag, `warm` bytes into it, the first instructions of a 3.14 body
        set; the machine code lies at `start`, its body is at offset `body`."""

    def stores(self, code: bytes, start: int, layout: Layout) -> Iterable[Store]:
        """Where the machine code at `start` stores or computes the frame's instruction pointer, in no order."""

    def first_address(self, code: bytes, start: int, layout: Layout) -> int | None:
        """The address in the first of `stores` that has one: what the code begins with, nearly always. Quick."""

    def names(self, code: bytes, start: int, begin: int, end: int, value: int, layout: Layout) -> bool:
        """Whether the code of a `_SET_IP`, [begin, end) of that at `start`, stores the instruction pointer
        `value`."""

    def constants(self, code: bytes) -> list[tuple[int, int]] | None:
        """The offsets of what may be instructions that hold a 64-bit constant as bytes of their own, and of those
        bytes, by rising offset; None where constants are parts of instructions."""


if TYPE_CHECKING:
    from jitunwind.jits.cpython.stencils import aarch64, x86_64

    _EACH: tuple[Stencils, ...] = (aarch64, x86_64)


def of(arch: Architecture) -> Stencils:
    """Those of that architecture: a process is of one, and needs only those."""
    return cast(Stencils, import_module(f"jitunwind.jits.cpython.stencils.{arch.name}"))
