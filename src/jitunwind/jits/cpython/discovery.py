"""Where executors hang on an interpreter, and where their fields are: checked, and else found by structure.

CPython's debug offsets do not describe executors, so each version has a record of offsets (`layout`). A build can
differ from it: in a pydebug build the interpreter's fields lie 16 bytes farther, and a version in development moves
them. So a record is a first guess. It is believed when what is read through it proves to be executors. If it does not,
the interpreter is searched for pointers to objects whose type is called `uop_executor`, and their fields are found by
voting: each executor says at which offsets it has pointers to machine code, to a code object and to other executors.
"""

import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from typing import NamedTuple

from jitunwind.errors import UnreadableMemory
from jitunwind.jits.cpython.executors import EXECUTOR_TYPE, LARGEST_REGION, MOST_EXECUTORS, interpreters
from jitunwind.jits.cpython.layout import Layout, described, unknown_version
from jitunwind.jits.cpython.objects import Objects
from jitunwind.jits.cpython.versions import ExecutorLayout
from jitunwind.jits.ranges import code_ranges, range_around
from jitunwind.memory import Memory
from jitunwind.rows import WORD

_PAGE = 4096
_LARGEST_OBJECT = 256
"""Bytes of an executor that are looked at: its fields before the exits are fewer."""
_MOST_VOTERS = 64
_MOST_LINKS = 1 << 12
_MOST_CHECKED = 8
"""Entries of an array of executors."""


class Located(NamedTuple):
    """A layout, and how much of it was checked: `evidence` says it in words, `is_checked` whether an executor was
    found through it."""

    layout: Layout
    is_checked: bool
    evidence: str


def read_layout(memory: Memory) -> Layout:
    """The layout of the CPython in `memory`, by which its executors are found.

    NotPython where there is none; UnsupportedVersion for versions before the oldest that is known, for free-threaded
    builds, for implausible debug offsets, and for newer versions of which no executor is found by its structure.
    """
    layout = described(memory)
    found = located(memory, layout)
    if layout.is_guess and not found.is_checked:
        raise unknown_version(f"CPython {layout.version_text}")
    return found.layout


def located(memory: Memory, layout: Layout) -> Located:
    """`layout` with the offsets of executors that this process has. Never raises for damaged memory."""
    search = _Search(memory, layout)
    roots = search.roots_of(layout.executor)
    if roots and search.have_code(roots, layout.executor):
        return Located(layout, True, "this version's offsets lead to executors")
    found = search.discover() if roots is None or search.may_have_code else None
    if found is not None:
        moved = found.jit_code - layout.executor.jit_code
        evidence = f"{len(search.executors)} executors were found by their type and their machine code"
        if moved:
            evidence += f"; their fields lie {moved:+d} bytes from those of this version's release builds"
        return Located(layout._replace(record=layout.record._replace(executor=found)), True, evidence)
    return Located(layout, False, "no executor was found, so the offsets are not checked")


class _Search:
    """One process's interpreters, searched for executors."""

    def __init__(self, memory: Memory, layout: Layout) -> None:
        self._memory, self._layout = memory, layout
        self._objects = Objects(memory, layout)
        self._size = layout.offsets["interpreter_state.size"]
        self._mappings = memory.mappings()
        self._code_ranges = code_ranges(memory)
        self._types: dict[int, str] = {}
        self._is_executor: dict[int, bool] = {}
        self.executors: list[int] = []
        """Addresses of those that were found."""

    @property
    def may_have_code(self) -> bool:
        """Whether memory that is executable belongs to no file."""
        return bool(self._code_ranges)

    def roots_of(self, of: ExecutorLayout) -> list[int] | None:
        """The executors that interpreters lead to by `of`; None where something else is found there."""
        roots: list[int] = []
        for interpreter in self._interpreters():
            if not self._fits(of):
                return None
            roots += [self._word(interpreter + offset) for offset in (*of.lists, *of.singles)]
            if of.array is not None and of.array_count is not None:
                array, count = self._word(interpreter + of.array), self._word(interpreter + of.array_count)
                if count > MOST_EXECUTORS or bool(count) > bool(array):
                    return None
                roots += [self._word(array + WORD * index) for index in range(min(count, _MOST_CHECKED))]
        roots = [root for root in roots if root]
        return roots if all(map(self.is_executor, roots)) else None

    def have_code(self, executors: Sequence[int], of: ExecutorLayout) -> bool:
        """Whether one of them has machine code where `of` says."""
        return any(
            self._is_code((self._word(each + of.jit_size), self._word(each + of.jit_code)), 1)
            for each in executors
        )

    def discover(self) -> ExecutorLayout | None:
        """The offsets of this process; None where too little agrees."""
        for interpreter in self._interpreters():
            heads, arrays = self._roots(interpreter)
            self.executors = list(islice(self._reached(heads, arrays), _MOST_LINKS))
            fields = self._fields() if self.executors else None
            if fields is None:
                continue
            return self._moved(fields, interpreter, heads, arrays)
        return None

    def _fits(self, of: ExecutorLayout) -> bool:
        farthest = max(*of.lists, *of.singles, of.array_count or 0, of.jit_switch)
        return min(*of.lists, *of.singles, of.array or farthest) >= 0 and farthest + WORD <= self._size

    def _interpreters(self) -> Iterator[int]:
        try:
            yield from interpreters(self._memory, self._layout)
        except UnreadableMemory:
            return

    def _word(self, address: int) -> int:
        """0 where nothing can be read."""
        try:
            return self._memory.word(address)
        except UnreadableMemory:
            return 0

    def _is_mapped(self, address: int) -> bool:
        return range_around(self._mappings, address) is not None

    def is_executor(self, address: int) -> bool:
        """Whether there is an object of that type."""
        if address not in self._is_executor:
            self._is_executor[address] = self._type_of(address) == EXECUTOR_TYPE
        return self._is_executor[address]

    def _type_of(self, address: int) -> str:
        """The name of the type of the object at `address`; "" where there is none."""
        if address <= 0 or address % WORD or not self._is_mapped(address):
            return ""
        of = self._word(address + self._objects.type_at)
        if of not in self._types:
            try:
                known = bool(of) and not of % WORD and self._is_mapped(of)
                self._types[of] = self._objects.name_of_type(of) if known else ""
            except UnreadableMemory:
                self._types[of] = ""
        return self._types[of]

    def _roots(self, interpreter: int) -> tuple[dict[int, int], dict[int, int]]:
        """By offset in the interpreter: the pointers to executors, and those to arrays of them whose length
        follows."""
        try:
            data = self._memory.checked_read(interpreter, self._size // WORD * WORD)
        except UnreadableMemory:
            return {}, {}
        words = struct.unpack(f"<{len(data) // WORD}Q", data)
        heads = {index * WORD: word for index, word in enumerate(words) if word and self.is_executor(word)}
        arrays = {}
        for index, (word, count) in enumerate(pairwise(words)):
            if 0 < count <= MOST_EXECUTORS and self._is_array(word, count):
                arrays[index * WORD] = word
        return heads, arrays

    def _is_array(self, address: int, count: int) -> bool:
        if not address or address % WORD or not self._is_mapped(address):
            return False
        first = self._word(address)
        if not first or not self.is_executor(first):
            return False
        last = self._word(address + WORD * (count - 1))
        return bool(last) and self.is_executor(last)

    def _reached(self, heads: dict[int, int], arrays: dict[int, int]) -> Iterator[int]:
        """The executors that these lead to, and those that their own pointers lead to."""
        pending = list(heads.values())
        for array in arrays.values():
            pending += [self._word(array + WORD * index) for index in range(_MOST_VOTERS)]
        seen: set[int] = set()
        while pending:
            address = pending.pop()
            if address in seen or not self.is_executor(address):
                continue
            seen.add(address)
            yield address
            pending += [word for word in self._fields_of(address) if word and self.is_executor(word)]

    def _fields_of(self, address: int) -> Sequence[int]:
        try:
            return self._memory.words(address, _LARGEST_OBJECT // WORD)
        except UnreadableMemory:
            return ()

    def _fields(self) -> dict[str, int] | None:
        """Where executors have their fields, by name; None where they do not agree."""
        votes: dict[str, Counter[int]] = {"jit_code": Counter(), "code": Counter(), "link_next": Counter()}
        compiled = 0
        for address in self.executors[:_MOST_VOTERS]:
            words = self._fields_of(address)
            found = [index * WORD for index in range(1, len(words)) if self._is_code(words, index)]
            compiled += bool(found)
            votes["jit_code"].update(found)
            for index, word in enumerate(words):
                if word and self._type_of(word) == "code":
                    votes["code"][index * WORD] += 1
                if word and self.is_executor(word) and self._word(word + (index + 1) * WORD) == address:
                    votes["link_next"][index * WORD] += 1
        best = {name: counted.most_common(2) for name, counted in votes.items()}
        if not compiled or not best["jit_code"] or best["jit_code"][0][1] < compiled:
            return None
        if len(best["jit_code"]) > 1 and best["jit_code"][1][1] == best["jit_code"][0][1]:
            return None
        return {name: winners[0][0] for name, winners in best.items() if winners}

    def _is_code(self, words: Sequence[int], index: int) -> bool:
        """Whether a field points to machine code, whose size the field before has."""
        start, size = words[index], words[index - 1]
        if start % _PAGE or not 0 < size <= LARGEST_REGION:
            return False
        mapping = range_around(self._code_ranges, start)
        return mapping is not None and start + size <= mapping.end

    def _moved(
        self, fields: dict[str, int], interpreter: int, heads: dict[int, int], arrays: dict[int, int]
    ) -> ExecutorLayout | None:
        """This version's record, with the fields of executors moved to where they were found, and those of the
        interpreter by a distance that all of them agree with; None, if there is no such distance."""
        record = self._layout.executor
        own = fields["jit_code"] - record.jit_code
        expected = {"code": record.code + own, "link_next": record.link_next + own}
        if any(fields.get(name, offset) != offset for name, offset in expected.items()):
            return None
        moved = record.moved(in_executor=own)
        if not self._exits_agree(moved):
            return None
        if record.array is not None:
            distances = [found - record.array for found in sorted(arrays)]
        else:  # the list of executors in use comes before that of those that wait for deletion
            distances = [found - offset for offset in record.lists for found in sorted(heads)]
        for distance in distances:
            there = moved.moved(in_interpreter=distance)
            if self.roots_of(there) and self._is_switch(interpreter + there.jit_switch):
                return there
        return None

    def _is_switch(self, address: int) -> bool:
        try:
            return self._memory.checked_read(address, 1) in (b"\0", b"\1")
        except UnreadableMemory:
            return False

    def _exits_agree(self, of: ExecutorLayout) -> bool:
        """Whether executors have pointers to executors, or none, where `of` has their exits."""
        for address in self.executors[:_MOST_VOTERS]:
            try:
                (count,) = struct.unpack("<I", self._memory.checked_read(address + of.exit_count, 4))
            except UnreadableMemory:
                return False
            for index in range(min(count, _MOST_CHECKED)):
                target = self._word(address + of.exits + of.exit_size * index + of.exit_executor)
                if target and not self.is_executor(target):
                    return False
        return True
