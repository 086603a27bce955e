"""Which function an x86_64 call calls (Intel SDM volume 2, CALL: E8 cd, and FF /2 relative to rip; JMP: FF /4)."""

from jitunwind.arch.calls import Callee

_DIRECT, _BY_SLOT, _JUMP_BY_SLOT = b"\xe8", b"\xff\x15", b"\xff\x25"


def slot_of(code: bytes, offset: int, after: int) -> int | None:
    """The place in `code` that has the target of the call or jump from `offset` to `after`; None where it has none."""
    instruction = code[offset:after]
    if instruction[:-4] not in (_BY_SLOT, _JUMP_BY_SLOT):
        return None
    target = after + int.from_bytes(instruction[-4:], "little", signed=True)
    return target if 0 <= target <= len(code) - 8 else None


def callee_of(code: bytes, offset: int, after: int) -> Callee | None:
    """The callee of the call in `code` from `offset` to `after`; None where the bytes alone do not tell."""
    if code[offset : after - 4] == _DIRECT:
        return Callee(offset=after + int.from_bytes(code[after - 4 : after], "little", signed=True))
    slot = slot_of(code, offset, after)
    return None if slot is None else Callee(address=int.from_bytes(code[slot : slot + 8], "little"))
