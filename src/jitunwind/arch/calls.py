"""Which function a call calls: the vocabulary of `arch.ARCH.calls`."""

from typing import NamedTuple


class Callee(NamedTuple):
    """A called function: its `address`, or the `offset` in the code to which calls go. The other one is None."""

    address: int | None = None
    offset: int | None = None
