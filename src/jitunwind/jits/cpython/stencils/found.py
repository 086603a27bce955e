"""What `stencils` finds in machine code. Offsets are in bytes from the code's start."""

from typing import NamedTuple


class Shim(NamedTuple):
    """A shim before an executor's body: its size, and the offset that its call of the body comes back to."""

    size: int
    returns: int


class EntryShim(NamedTuple):
    """3.15's one shim, [start, end), and the offset that its call of the body comes back to."""

    start: int
    end: int
    returns: int


class Store(NamedTuple):
    """A store of the frame's instruction pointer that ends at `offset`.

    `address` is what is stored; None where the code computes it, from `within` bytes into the bytecode of the
    function that runs.
    """

    offset: int
    address: int | None
    within: int = 0
