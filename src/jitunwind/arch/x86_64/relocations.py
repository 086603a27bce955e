"""x86_64's relocations of code, `.eh_frame` and jump tables: System V psABI x86_64, table 4.9."""

from enum import IntEnum

from jitunwind.arch.relocations import Target


class Relocation(IntEnum):
    """R_X86_64_*."""

    ABS64 = 1
    PC32 = 2
    PLT32 = 4
    GOTPCREL = 9
    ABS32 = 10
    ABS32S = 11
    PC64 = 24
    GOTPCRELX = 41
    REX_GOTPCRELX = 42


_BY_SLOT = frozenset((Relocation.GOTPCREL, Relocation.GOTPCRELX, Relocation.REX_GOTPCRELX))
_PC_RELATIVE = frozenset((Relocation.PC32, Relocation.PLT32, Relocation.PC64, *_BY_SLOT))
_WIDE = frozenset((Relocation.ABS64, Relocation.PC64))
_KNOWN = frozenset(Relocation)


def size(kind: int) -> int:
    if kind not in _KNOWN:
        return 0
    return 8 if kind in _WIDE else 4


def relocated(kind: int, field: int, place: int, target: Target) -> int:
    value = target.slot() if kind in _BY_SLOT else target.address
    return value + target.addend - (place if kind in _PC_RELATIVE else 0)
