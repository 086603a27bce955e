"""Which function an AArch64 call calls (Arm ARM, C6.2: BL)."""

from jitunwind.arch.calls import Callee

_BL, _BL_MASK = 0x94000000, 0xFC000000
_DISTANCE = (1 << 26) - 1
_SIGN = 1 << 25


def slot_of(code: bytes, offset: int, after: int) -> int | None:
    """None: calls and jumps take their target from no memory."""
    return None


def callee_of(code: bytes, offset: int, after: int) -> Callee | None:
    """The callee of the call in `code` from `offset` to `after`: JIT code has one veneer for each function, so
    the veneer's offset stands for it. None where the bytes alone do not tell."""
    word = int.from_bytes(code[offset:after], "little")
    if word & _BL_MASK != _BL:
        return None
    distance = (word & _DISTANCE ^ _SIGN) - _SIGN
    return Callee(offset=offset + 4 * distance)
