"""Where indirect jumps of compiled AArch64 code go: the jump tables of GCC's and Clang's switch statements.

A function's bytes and the file's memory in, targets out. Known shapes: `ldr x0, [table, i, lsl #3]; br x0`
(addresses), and `ldrb w0, [table, i]; add x0, label, w0, sxtb #2; br x0`, with entries of one, two or four bytes
(distances from a label in the code, or from the table). Addresses come from `adr`, or `adrp` and `add`, in the
straight line before; where there is none, every table that the function mentions counts. A table ends where the
comparison before the jump says, where the next thing that the function mentions begins (if it is one of distances),
or at the first entry that leads out of the function and its parts, or to no landing pad if the function has any.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

from jitunwind.arch.aarch64.effects import meaning
from jitunwind.arch.aarch64.registers import AARCH64
from jitunwind.arch.aarch64.words import (
    SIZE,
    Entry,
    Sum,
    above,
    added,
    compared,
    entry_read,
    immediate_added,
    loaded_at,
    moved,
    near,
    not_above,
    page_of,
    signed,
    words_of,
)
from jitunwind.arch.compiled import Surroundings
from jitunwind.arch.effects import Control, Store
from jitunwind.rows import WORD

_WINDOW = 40
"""Instructions looked at before a jump."""
_ENTRIES = 1 << 14
"""Entries read of one table at most."""
_BIAS = 64
"""Entries skipped at most before the first, where a table's address counts from an index that is never 0."""
_PADS = (0xD503249F, 0xD50324DF)
"""bti j, bti jc"""
_STOPS = (Control.JUMP, Control.RETURN, Control.HALT)


class Switches:
    """The jump tables of the function `code` at address `start`."""

    def __init__(self, code: bytes, start: int, around: Surroundings) -> None:
        self._start, self._end = start, start + len(code)
        self._words = words_of(code)
        self._around = around
        self._found: dict[int, list[int]] = {}

    def targets(self, offset: int, starts: Sequence[int]) -> list[int]:
        """The addresses to which the jump at `offset` may go; none for one that leaves or is not understood."""
        found = self._found.get(offset)
        if found is None:
            found = self._found[offset] = sorted(set(self._targets(offset // SIZE)))
        return found

    def _targets(self, jump: int) -> Iterable[int]:
        register = self._words[jump] >> 5 & 31
        at = self._written(register, jump)
        if at is None:  # no tail call goes by a register that its function has to keep: it is a label
            return self._labels if register in AARCH64.callee_saved else []
        word, count = self._words[at], self._count(jump)
        read, total = entry_read(word), added(word)
        if read is not None and read.size == WORD:
            tables = self._tables(read, at)
            return [t for table in tables for t in self._entries(table, read, None, 0, count)]
        return self._relative(total, at, count) if total is not None else []

    def _relative(self, total: Sum, at: int, count: int | None) -> list[int]:
        """Targets of a label, or the table, and an entry of it."""
        for entry, other in ((total.second, total.first), (total.first, total.second)):
            place = self._written(entry, at)
            read = None if place is None else entry_read(self._words[place])
            if place is None or read is None or (entry == total.first and total.shift):
                continue
            label = self._constant(other, at)
            return [
                target
                for table in self._tables(read, place)
                for base in ((table, *self._labels) if label is None else (label,))
                for target in self._entries(table, read, total, base, count)
            ]
        return []

    def _tables(self, read: Entry, at: int) -> list[int]:
        """The table that an instruction reads, if the straight line of code says so; else every one."""
        base = self._constant(read.base, at)
        return self._mentioned if base is None else [base]

    def _entries(
        self, table: int, read: Entry, total: Sum | None, base: int, count: int | None
    ) -> Iterator[int]:
        if not self._around.is_data(table):
            return
        size = (count or _ENTRIES) * read.size
        index = bisect_right(self._mentioned, table)
        if count is None and total is not None and index < len(self._mentioned):
            size = min(size, self._mentioned[index] - table)
        data = self._around.read(table, size)
        begun = False
        for number in range(len(data) // read.size):
            value = int.from_bytes(data[number * read.size :][: read.size], "little", signed=read.is_signed)
            target = base + (value if total is None else _extended(value, total))
            if target == self._end:  # Clang's label of a case that cannot be: an empty block behind the last
                continue
            if self._may_land(target):
                begun = True
                yield target
            elif begun or number >= _BIAS or total is not None:
                break

    def _may_land(self, target: int) -> bool:
        """Whether `target` is code of the function: a landing pad, if it has any."""
        if self._start <= target < self._end:
            word = self._words[(target - self._start) // SIZE]
        elif self._around.is_part(target):
            word = int.from_bytes(self._around.read(target, SIZE), "little")
        else:
            return False
        return not target % SIZE and (word in _PADS or not self._has_pads)

    @cached_property
    def _has_pads(self) -> bool:
        return any(pad in self._words for pad in _PADS)

    @cached_property
    def _mentioned(self) -> list[int]:
        """Every address of data that the function makes, rising."""
        return sorted(address for address in self._made if self._around.is_data(address))

    @cached_property
    def _labels(self) -> list[int]:
        """Every address in the function itself that it makes: GNU C's labels as values."""
        return sorted(made for made in self._made if self._start < made < self._end and not made % SIZE)

    @cached_property
    def _made(self) -> set[int]:
        found: set[int] = set()
        pages: dict[int, int] = {}
        fresh: set[int] = set()
        """Registers with a page as `adrp` made it: what is added to another address may be a loop's step."""
        for index, word in enumerate(self._words):
            address = self._start + index * SIZE
            page, close = page_of(word, address), near(word, address)
            if page is not None:
                pages[word & 31] = page
                fresh.add(word & 31)
            total, loaded = immediate_added(word), loaded_at(word)
            if total is not None and total[0] in pages and (total[0] in fresh or total[0] != word & 31):
                pages[word & 31] = pages[total[0]] + total[1]
                found.add(pages[word & 31])
                fresh.discard(word & 31)
            if loaded is not None and loaded.base in pages:
                found.add(pages[loaded.base] + loaded.offset)
            if close is not None:
                found.add(close)
        return found

    def _written(self, register: int, before: int) -> int | None:
        """The index of the last instruction before that one which writes `register`, in a straight line."""
        for index in range(before - 1, max(-1, before - _WINDOW - 1), -1):
            meant = meaning(self._words[index], (register,))
            if meant is None:
                continue
            effects, control, _ = meant
            if control in _STOPS or (control is Control.CALL and register in AARCH64.caller_saved):
                return None
            if any(not isinstance(effect, Store) for effect in effects):
                return index
        return None

    def _constant(self, register: int, before: int) -> int | None:
        """The address that the straight line of code leaves in `register`."""
        at = self._written(register, before)
        if at is None:
            return None
        word, address = self._words[at], self._start + at * SIZE
        for made in (near(word, address), page_of(word, address)):
            if made is not None:
                return made
        source, sum_of = moved(word), immediate_added(word)
        if source is not None:
            return self._constant(source, at)
        if sum_of is None:
            return None
        base = self._constant(sum_of[0], at)
        return None if base is None else base + sum_of[1]

    def _count(self, jump: int) -> int | None:
        """How many entries the comparison before a jump leaves, in the straight line or where that is entered."""
        first = jump
        for index in range(jump - 1, max(-1, jump - _WINDOW - 1), -1):
            meant = meaning(self._words[index], ())
            if meant is not None and meant[1] in _STOPS:
                break
            first = index
            if meant is not None and meant[1] is Control.BRANCH:
                more = above(self._words[index])
                return None if more is None else self._compared(index, more)
        for index, distance in self._guards:
            if first <= index + distance // SIZE <= jump:
                return self._compared(index, not_above(self._words[index]) or 0)
        return None

    @cached_property
    def _guards(self) -> list[tuple[int, int]]:
        """The branches that are taken for small numbers: index and distance."""
        return [
            (index, signed(word >> 5 & 0x7FFFF, 19) * SIZE)
            for index, word in enumerate(self._words)
            if not_above(word) is not None
        ]

    def _compared(self, branch: int, more: int) -> int | None:
        for word in self._words[max(0, branch - 4) : branch][::-1]:
            number = compared(word)
            if number is not None:
                return number + more
        return None


def _extended(value: int, total: Sum) -> int:
    value &= (1 << total.bits) - 1
    if total.is_signed or total.bits == 64:
        value = signed(value, total.bits)
    return value << total.shift
