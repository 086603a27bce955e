"""Readers: the programs that execute unwind tables, asked what they make of one.

In come `.eh_frame` bytes, as published, and the states of threads in JIT code; out comes the frame that called into
JIT code, as the reader sees it. Our own decoder says what a table means by the standard. A reader says what happens:
libgcc, for one, takes DW_CFA_restore otherwise, and walked tables that the standard calls right without end.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NamedTuple, Protocol

from jitunwind.arch import Architecture
from jitunwind.audit.records import Record
from jitunwind.rows import Unknown

READERS = ("libgcc", "libunwind", "llvm-libunwind", "libdw", "gdb")
"""GCC's unwinder, nongnu libunwind, LLVM's libunwind, elfutils' libdw, GDB."""


class Table(NamedTuple):
    """The `.eh_frame` entries `data`, which count from `address`; 0: they may lie anywhere. `fdes` are the code
    that each FDE describes and the FDE's place: (start, size, offset in `data`)."""

    address: int
    data: bytes
    fdes: tuple[tuple[int, int, int], ...]


class Outcome(NamedTuple):
    """The frame that called into JIT code; where a walk does not leave JIT code, the last frame there.

    Its CFA is the stack pointer in that frame. `registers` are the callee-saved ones as `judged_registers` lists them;
    None: the reader has lost that one.
    """

    cfa: int
    return_address: int
    registers: tuple[int | None, ...]


class Reader(Protocol):
    """One reader, which may be a process of its own until `close`. JitunwindError from any of these where that
    process fails."""

    name: str
    version: str

    def tell(self, tables: Sequence[Table], inside: Sequence[tuple[int, int]]) -> None:
        """From now on, JIT code is at `inside` (start and end of each range, rising), and these are its tables."""

    def ask(
        self, records: Sequence[Record], back: int, memory: Sequence[tuple[int, bytes]]
    ) -> list[Outcome | Unknown]:
        """The frame outside JIT code for each of `records`, which have stack words. `back` is where the activation
        returns to; `memory`: what else of the stack walks may need, by its address."""

    def close(self) -> None: ...


def open_reader(name: str, arch: Architecture) -> Reader:
    """The reader of that name, one of `READERS`. NoReader where it is not on this machine, or cannot read code of
    `arch`."""
    modules = {"libdw": "libdw", "gdb": "gdb"}
    module = import_module(f"jitunwind.audit.readers.{modules.get(name, 'inprocess')}")
    make: Callable[[str, Architecture], Reader] = module.open_reader
    return make(name, arch)
