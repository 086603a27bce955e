"""Which function an x86_64 call calls (Intel SDM volume 2, CALL: E8 cd, and FF /2 relative to rip)."""

from jitunwind.arch.calls import Callee

_DIRECT, _BY_SLOT = b"\xe8", b"\xff\x15"


def callee_of(code: bytes, offset: int, after: int) -> Callee | None:
    """The callee of the call in `code` from `offset` to `after`; None where the bytes alone do not tell."""
    instruction = code[offset:after]
    if len(instruction) < 5:
        return None
    target = after + int.from_bytes(instruction[-4:], "little", signed=True)
    if instruction[:-4] == _DIRECT:
        return Callee(offset=target)
    if instruction[:-4] == _BY_SLOT and 0 <= target <= len(code) - 8:
        return Callee(address=int.from_bytes(code[target : target + 8], "little"))
    return None
