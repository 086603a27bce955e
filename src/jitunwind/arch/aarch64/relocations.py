"""AArch64's relocations of data, branches, and addresses made by `adrp` and `add`: AAELF64, section 5.7."""

from jitunwind.arch.relocations import Target

_WORDS = {257: (8, False), 258: (4, False), 260: (8, True), 261: (4, True)}
"""R_AARCH64_ABS64, ABS32, PREL64, PREL32: bytes, and whether they are relative (section 5.7.4)."""
_BRANCHES = {279: (5, 14), 280: (5, 19), 282: (0, 26), 283: (0, 26)}
"""R_AARCH64_TSTBR14, CONDBR19, JUMP26, CALL26: where the distance in words begins, and its bits (section 5.7.9)."""
_PAGE, _IN_PAGE = 275, 277
"""R_AARCH64_ADR_PREL_PG_HI21, ADD_ABS_LO12_NC (sections 5.7.6 and 5.7.7)."""


def size(kind: int) -> int:
    if kind in _WORDS:
        return _WORDS[kind][0]
    return 4 if kind in _BRANCHES or kind in (_PAGE, _IN_PAGE) else 0


def relocated(kind: int, field: int, place: int, target: Target) -> int:
    value = target.address + target.addend
    if kind in _WORDS:
        return value - (place if _WORDS[kind][1] else 0)
    if kind in _BRANCHES:
        at, bits = _BRANCHES[kind]
        mask = (1 << bits) - 1
        return field & ~(mask << at) | (value - place >> 2 & mask) << at
    if kind == _PAGE:
        pages = (value >> 12) - (place >> 12)
        return field & 0x9F00001F | (pages & 3) << 29 | (pages >> 2 & 0x7FFFF) << 5
    return field & ~(0xFFF << 10) | (value & 0xFFF) << 10
