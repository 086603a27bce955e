"""Machine code as people read it: the vocabulary of `arch.ARCH.listing`."""

from typing import NamedTuple


class Listed(NamedTuple):
    """The instruction at `offset` of a region. `jump`: the address that it jumps to or calls directly; `mentions`:
    one that it holds, as a 64-bit immediate or relative to itself (AArch64: or to the page that an `adrp` before it
    has made). None, if there is none."""

    offset: int
    size: int
    text: str
    jump: int | None
    mentions: int | None
