"""The few A64 instructions that make addresses and read there, taken apart (Arm ARM, section C4.1)."""

from struct import unpack_from
from typing import NamedTuple

SIZE = 4
"""Bytes of an instruction."""
_PAGE = 1 << 12


def words_of(code: bytes) -> tuple[int, ...]:
    """The instructions of `code`, but for one that is cut off."""
    return unpack_from(f"<{len(code) // SIZE}I", code)


def signed(value: int, bits: int) -> int:
    """A field of so many bits as a two's complement number."""
    return value - (1 << bits) if value >> (bits - 1) else value


def _distance(word: int) -> int:
    return signed((word >> 5 & 0x7FFFF) << 2 | word >> 29 & 3, 21)


def page_of(word: int, address: int) -> int | None:
    """What an `adrp` at `address` gives its register."""
    return (address & -_PAGE) + _distance(word) * _PAGE if word & 0x9F000000 == 0x90000000 else None


def near(word: int, address: int) -> int | None:
    """What an `adr` at `address` gives its register."""
    return address + _distance(word) if word & 0x9F000000 == 0x10000000 else None


def loaded_near(word: int, address: int) -> int | None:
    """The address that an `ldr` at `address` reads, which names it by its distance."""
    return address + signed(word >> 5 & 0x7FFFF, 19) * SIZE if word & 0x3B000000 == 0x18000000 else None


def immediate_added(word: int) -> tuple[int, int] | None:
    """Source and addend of `add xd, xn, #imm`."""
    if word & 0xFF800000 != 0x91000000:
        return None
    return word >> 5 & 31, (word >> 10 & 0xFFF) << (12 if word >> 22 & 1 else 0)


def moved(word: int) -> int | None:
    """The source of `mov xd, xm`."""
    return word >> 16 & 31 if word & 0xFFE0FFE0 == 0xAA0003E0 else None


class Loaded(NamedTuple):
    """The memory at base + offset, `size` bytes of it."""

    base: int
    offset: int
    size: int


def loaded_at(word: int) -> Loaded | None:
    """What `ldr` with an unsigned offset reads, into a general or a vector register."""
    if word & 0x3B400000 != 0x39400000:
        return None
    shift = 4 if word >> 26 & 1 and word >> 23 & 1 else word >> 30
    return Loaded(word >> 5 & 31, (word >> 10 & 0xFFF) << shift, 1 << shift)


class Entry(NamedTuple):
    """An element of a table at `base`, of `size` bytes, by an index that is a register."""

    base: int
    size: int
    is_signed: bool


def entry_read(word: int) -> Entry | None:
    """What `ldr` with a register for an offset reads into a general register."""
    operation = word >> 22 & 3
    if word & 0x3F200C00 != 0x38200800 or not operation:
        return None
    return Entry(word >> 5 & 31, 1 << (word >> 30), operation > 1)


class Sum(NamedTuple):
    """first + (second, of which the lower `bits` count, with their sign or without) << shift"""

    first: int
    second: int
    bits: int
    is_signed: bool
    shift: int


def added(word: int) -> Sum | None:
    """The sum of two registers that `add` makes."""
    first, second = word >> 5 & 31, word >> 16 & 31
    if word & 0xFFE00000 == 0x8B200000:
        extension = word >> 13 & 7
        return Sum(first, second, 8 << (extension & 3), extension > 3, word >> 10 & 7)
    if word & 0xFFE00000 == 0x8B000000:
        return Sum(first, second, 64, False, word >> 10 & 63)
    return None


def above(word: int) -> int | None:
    """How many more indices than the compared number a `b.hi` or `b.hs` lets pass."""
    return {8: 1, 2: 0}.get(word & 15) if word & 0xFF000010 == 0x54000000 else None


def not_above(word: int) -> int | None:
    """How many more indices than the compared number a `b.ls` or `b.lo` takes to its target."""
    return {9: 1, 3: 0}.get(word & 15) if word & 0xFF000010 == 0x54000000 else None


def compared(word: int) -> int | None:
    """The number that `cmp` compares a register with."""
    if word & 0x7F80001F != 0x7100001F:
        return None
    return (word >> 10 & 0xFFF) << (12 if word >> 22 & 1 else 0)
