"""The executors of a CPython: found from its interpreters' lists and arrays, and checked before believed.

In comes a process that may be stopped anywhere, or whose memory is damaged; out come those executors that
prove to be ones: right type, machine code mapped and executable, sane size. Names come from here; what is
machine code, the mappings say (`regions`), since a list can be empty while its code still runs.
"""

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from jitunwind.errors import UnreadableMemory
from jitunwind.jits.cpython.layout import Layout
from jitunwind.jits.cpython.objects import Objects
from jitunwind.jits.cpython.versions import ExecutorLayout
from jitunwind.memory import Memory
from jitunwind.rows import WORD

EXECUTOR_TYPE = "uop_executor"
MOST_EXECUTORS = 1 << 20
MOST_INTERPRETERS = 1 << 12
LARGEST_REGION = 1 << 24
"""Bytes; CPython 3.15 itself stops at 1 MiB (Include/internal/pycore_jit.h)."""
MOST_EXITS = 1 << 12
_word = struct.Struct("<Q").unpack_from


class Executor(NamedTuple):
    """An executor at `address`: its machine code, and the code object it was made for (0: a side trace)."""

    address: int
    jit_code: int
    jit_size: int
    code: int
    exit_count: int
    link: int = 0
    """The next one in the list."""


class Executors:
    """What was found, by machine code address, and what was wrong on the way, in words."""

    def __init__(self) -> None:
        self.by_start: dict[int, Executor] = {}
        self.warnings: list[str] = []


def interpreters(memory: Memory, layout: Layout) -> Iterator[int]:
    """The addresses of the interpreter states. Ends at a cycle; UnreadableMemory for a wild pointer."""
    address = memory.word(layout.runtime + layout.offsets["runtime_state.interpreters_head"])
    seen: set[int] = set()
    while address and address not in seen and len(seen) < MOST_INTERPRETERS:
        seen.add(address)
        yield address
        address = memory.word(address + layout.offsets["interpreter_state.next"])


def executor_heads(memory: Memory, layout: Layout, interpreter: int) -> bytes:
    """What an interpreter's lists and array of executors begin with: it changes when one comes or goes."""
    of = layout.executor
    heads = b"".join(memory.checked_read(interpreter + offset, 8) for offset in (*of.lists, *of.singles))
    if of.array is None or of.array_count is None:
        return heads
    array, count = memory.word(interpreter + of.array), memory.word(interpreter + of.array_count)
    return heads + (memory.checked_read(array, 8 * count) if 0 < count <= MOST_EXECUTORS else b"")


def read_executor(memory: Memory, objects: Objects, layout: ExecutorLayout, address: int) -> Executor | None:
    """The executor at `address`; None, if what is there is none or has no machine code."""
    try:
        data = memory.checked_read(address, layout.exits)
        (jit_size,) = _word(data, layout.jit_size)
        (jit_code,) = _word(data, layout.jit_code)
        if not (jit_code and 0 < jit_size <= LARGEST_REGION):
            return None
        if objects.name_of_type(*_word(data, objects.type_at)) != EXECUTOR_TYPE:
            return None
    except UnreadableMemory:
        return None
    (code,) = _word(data, layout.code)
    (exit_count,) = struct.unpack_from("<I", data, layout.exit_count)
    (link,) = _word(data, layout.link_next)
    return Executor(address, jit_code, jit_size, code, min(exit_count, MOST_EXITS), link)


def find_executors(memory: Memory, objects: Objects, layout: Layout) -> Executors:
    """All executors of all interpreters. Never raises for a damaged process: it warns, and gives the rest."""
    found = Executors()
    try:
        for interpreter in interpreters(memory, layout):
            _of_interpreter(memory, objects, layout, interpreter, found)
    except UnreadableMemory as error:
        found.warnings.append(f"the list of interpreters is damaged: {error}")
    return found


def executors_from_newest(memory: Memory, objects: Objects, layout: Layout) -> Iterator[Executor]:
    """The executors in use, with machine code, of versions that have arrays of them: in each the newest first.
    UnreadableMemory for a wild pointer."""
    of = layout.executor
    if of.array is None or of.array_count is None:
        return
    for interpreter in interpreters(memory, layout):
        array, count = memory.word(interpreter + of.array), memory.word(interpreter + of.array_count)
        singles = [memory.word(interpreter + offset) for offset in of.singles]
        listed = memory.words(array, count) if 0 < count <= MOST_EXECUTORS else ()
        for address in (*reversed(listed), *singles):
            executor = read_executor(memory, objects, of, address) if address else None
            if executor is not None:
                yield executor


def _of_interpreter(
    memory: Memory, objects: Objects, layout: Layout, interpreter: int, found: Executors
) -> None:
    of = layout.executor
    size = layout.offsets["interpreter_state.size"]
    if max(*of.lists, *of.singles, of.array_count or 0) + 8 > size:
        found.warnings.append(
            "the interpreter is smaller than this version's should be; its list is not used"
        )
        return
    for offset in of.lists:
        try:
            head = memory.word(interpreter + offset)
            _walk(memory, objects, of, head, found)
        except UnreadableMemory as error:
            found.warnings.append(f"the list of executors is damaged: {error}")
    for offset in of.singles:
        try:
            address = memory.word(interpreter + offset)
        except UnreadableMemory as error:
            found.warnings.append(f"the interpreter cannot be read: {error}")
            continue
        if address:
            _add(memory, objects, of, address, found)
    if of.array is None or of.array_count is None:
        return
    try:
        array, count = memory.word(interpreter + of.array), memory.word(interpreter + of.array_count)
        if count > MOST_EXECUTORS:
            found.warnings.append(f"the array of executors claims {count} entries; it is not used")
            return
        for address in memory.words(array, count) if count else ():
            _add(memory, objects, of, address, found)
    except UnreadableMemory as error:
        found.warnings.append(f"the array of executors is damaged: {error}")


def _walk(memory: Memory, objects: Objects, of: ExecutorLayout, head: int, found: Executors) -> None:
    seen: set[int] = set()
    address = head
    while address:
        if address in seen or len(seen) >= MOST_EXECUTORS:
            found.warnings.append("the list of executors goes in a circle")
            return
        seen.add(address)
        executor = read_executor(memory, objects, of, address)
        if executor is not None:
            found.by_start[executor.jit_code] = executor
            address = executor.link
        elif _is_executor(objects, address, found):
            address = memory.word(address + of.link_next)
        else:
            return


def _add(memory: Memory, objects: Objects, of: ExecutorLayout, address: int, found: Executors) -> None:
    """Add the executor at `address`, if it has machine code."""
    executor = read_executor(memory, objects, of, address)
    if executor is not None:
        found.by_start[executor.jit_code] = executor
    else:
        _is_executor(objects, address, found)


def _is_executor(objects: Objects, address: int, found: Executors) -> bool:
    """Whether the object at `address`, which has no machine code, is an executor; else there is a warning."""
    try:
        if objects.type_name(address) == EXECUTOR_TYPE:
            return True  # not compiled, or its machine code is gone
    except UnreadableMemory:
        pass
    found.warnings.append(f"the list of executors leads to {address:#x}, which is none")
    return False


class Exits:
    """The side exits of an executor, as they lie in memory."""

    def __init__(self, data: bytes, layout: ExecutorLayout) -> None:
        self._words, self._layout = data, layout

    def may_lead_to(self, addresses: Iterable[bytes]) -> bool:
        """False: none leads to an executor at one of these addresses, each a little-endian word. This is quick."""
        return any(address in self._words for address in addresses)

    @property
    def targets(self) -> list[int]:
        """The addresses of the executors that they lead to."""
        of = self._layout
        words = struct.unpack(f"<{len(self._words) // WORD}Q", self._words)
        return [target for target in words[of.exit_executor // WORD :: of.exit_size // WORD] if target]


def exits_of(memory: Memory, layout: ExecutorLayout, executor: Executor) -> Exits | None:
    """The side exits of this one; None, if it is not there any more."""
    try:
        data = memory.checked_read(executor.address, layout.exits + executor.exit_count * layout.exit_size)
    except UnreadableMemory:
        return None
    return (
        Exits(data[layout.exits :], layout) if _word(data, layout.jit_code)[0] == executor.jit_code else None
    )


def code_by_executor(
    memory: Memory, objects: Objects, layout: ExecutorLayout, executors: Executors
) -> dict[int, int]:
    """Executor address -> address of the code object it runs, side traces included.

    A side trace has none of its own: it continues the executor whose exit leads to it.
    """
    owner = {e.address: e.code for e in executors.by_start.values() if e.code}
    by_address = {e.address: e for e in executors.by_start.values()}
    pending = [by_address[address] for address in owner]
    while pending:
        executor = pending.pop()
        exits = exits_of(memory, layout, executor)
        for target in exits.targets if exits is not None else ():
            if target in by_address and target not in owner:
                owner[target] = owner[executor.address]
                pending.append(by_address[target])
    return owner
