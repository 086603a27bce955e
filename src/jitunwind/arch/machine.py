"""The architectures that ELF files name."""

from enum import IntEnum


class Machine(IntEnum):
    """e_machine (System V gABI, chapter 4)."""

    X86_64 = 62
    AARCH64 = 183
