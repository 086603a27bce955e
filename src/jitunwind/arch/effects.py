"""What one instruction does, as far as unwinding cares: the vocabulary between decoders and recovery.

A decoder (`arch.ARCH.effects`, or `arch.ARCH.text` from a disassembler's words) turns machine code into a
list of `Step`; `recover` runs data flow over them and knows no opcode. Registers are DWARF numbers.
"""

from collections.abc import Callable, Collection
from enum import Enum, auto
from functools import cache
from typing import NamedTuple


class Assign(NamedTuple):
    """target = source + addend."""

    target: int
    source: int
    addend: int


class Clobber(NamedTuple):
    """target = something not tracked."""

    target: int


class Store(NamedTuple):
    """size bytes at base + offset = source; source None: something not tracked."""

    base: int
    offset: int
    source: int | None
    size: int


class Load(NamedTuple):
    """target = the word at base + offset."""

    target: int
    base: int
    offset: int


class Exchange(NamedTuple):
    """one and other change places; neither is the stack pointer."""

    one: int
    other: int


class Set(NamedTuple):
    """target = a number."""

    target: int
    value: int


class Add(NamedTuple):
    """target = source + factor * other, where that is a number; else something not tracked."""

    target: int
    source: int
    other: int
    factor: int


class Sign(NamedTuple):
    """The return address in target gets a pointer authentication code, made with this key ("A" or "B"); "": has
    none any more."""

    target: int
    key: str


Effect = Assign | Clobber | Store | Load | Exchange | Set | Add | Sign


class Effects(tuple[Effect, ...]):
    """What an instruction does to registers and stack, in order. Equal ones are one object (`effects`), so
    that a look-up by them costs no comparison."""

    __slots__ = ()
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


_interned: dict[tuple[tuple[type[Effect], Effect], ...], Effects] = {}


def effects(*parts: Effect) -> Effects:
    """The one `Effects` of these parts."""
    key = tuple((type(part), part) for part in parts)
    known = _interned.get(key)
    if known is None:
        known = _interned[key] = Effects(parts)
    return known


HUGE = 4096
"""Bytes that a store of unknown size is taken to write."""
NO_EFFECTS = effects()


@cache
def clobber(target: int) -> Effects:
    return effects(Clobber(target))


@cache
def assign(target: int, source: int, addend: int) -> Effects:
    return effects(Assign(target, source, addend))


@cache
def store(base: int, offset: int, source: int | None, size: int) -> Effects:
    return effects(Store(base, offset, source, size))


@cache
def load(target: int, base: int, offset: int) -> Effects:
    return effects(Load(target, base, offset))


class Control(Enum):
    """Where control goes from an instruction."""

    NEXT = auto()
    BRANCH = auto()
    """To the target, or on."""
    JUMP = auto()
    """To the target; without one: indirectly."""
    CALL = auto()
    """To the target (without one: indirectly) and back behind this instruction."""
    RETURN = auto()
    """Back to the caller."""
    HALT = auto()
    """Nowhere: a trap, or bytes that are no instruction."""


class Step(NamedTuple):
    """An instruction that matters to unwinding: its bytes [offset, next), what it does, where control goes.

    `target` is an offset from the code's start; it may lie outside the code.
    """

    offset: int
    next: int
    effects: Effects
    control: Control = Control.NEXT
    target: int | None = None


class Decoded(NamedTuple):
    """A stretch of code, decoded in one sweep: the steps, and where each instruction of any kind starts."""

    steps: list[Step]
    starts: list[int]


Decoder = Callable[[bytes, int, Collection[int]], Decoded]
"""`arch.ARCH.effects.decode`: (code, offset to begin at, tracked registers) -> steps and starts."""
