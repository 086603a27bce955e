"""Relocations of object files: the vocabulary of `arch.ARCH.relocations`."""

from collections.abc import Callable
from typing import NamedTuple, Protocol


class Target(NamedTuple):
    """What a relocation refers to: the address of its symbol; `slot` gives the address of a slot in the global offset
    table that holds it; `addend` is the relocation's own."""

    address: int
    slot: Callable[[], int]
    addend: int


class Relocations(Protocol):
    """One architecture's."""

    def size(self, kind: int) -> int:
        """The bytes that a relocation of this kind changes; 0 for kinds that are not known, those of thread-local
        variables above all."""

    def relocated(self, kind: int, field: int, place: int, target: Target) -> int:
        """What stands at address `place` afterwards, where `field` did before: an integer, of which as many bytes count
        as `size` says. `kind` is a known one."""
