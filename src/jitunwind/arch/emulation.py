"""What an emulator has to be told of an architecture: the vocabulary of `arch.ARCH.emulation`."""

from typing import NamedTuple


class Emulated(NamedTuple):
    """unicorn's own numbers: the processor and its mode, and its registers in the order of their DWARF numbers, the
    program counter last; `model`, where the usual one lacks instructions that code may have."""

    architecture: int
    mode: int
    registers: tuple[int, ...]
    model: int | None = None
