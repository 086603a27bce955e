"""The pure Python frames of a CPython's threads, in the stretches that one run of its interpreter loop holds.

Each run of the loop puts a marker frame on its own C stack (owner FRAME_OWNED_BY_INTERPRETER, CPython
Include/internal/pycore_interpframe_structs.h). Its address says which native frame ran the Python frames
before it, with or without symbols.
"""

from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from jitunwind.errors import UnreadableMemory
from jitunwind.jits.cpython.executors import interpreters
from jitunwind.jits.cpython.layout import Layout
from jitunwind.jits.cpython.objects import CodeObject, Objects
from jitunwind.memory import Memory

TAGS = 3
"""The low bits of a _PyStackRef that are no address."""
MOST_FRAMES = 1 << 20
MOST_THREADS = 1 << 16
MOST_INLINED = 32
"""Frames above one that are looked at for the one into whose trace it is inlined. 3.15 inlines 16 calls into a trace
(MAX_ABSTRACT_FRAME_DEPTH, Include/internal/pycore_optimizer.h), 3.14 fewer."""


class PythonFrame(NamedTuple):
    """One frame: where its _PyInterpreterFrame is, what it runs, and the bytecode instruction it is at."""

    address: int
    code: CodeObject
    instruction: int

    @property
    def line(self) -> int | None:
        return self.code.line_at(self.instruction)


class Stretch:
    """The Python frames that one run of the interpreter loop holds, innermost first.

    `marker` is the address of its marker frame, on the C stack of that run; 0 where the chain broke off.
    """

    def __init__(self) -> None:
        self.frames: list[PythonFrame] = []
        self.marker = 0


def frame_at(memory: Memory, layout: Layout, objects: Objects, address: int) -> PythonFrame | None:
    """The Python frame at `address`; None, if there is none that makes sense."""
    offsets = layout.offsets
    try:
        executable = memory.word(address + offsets["interpreter_frame.executable"]) & ~TAGS
        instruction = memory.word(address + offsets["interpreter_frame.instr_ptr"])
        code = objects.code(executable)
    except UnreadableMemory:
        return None
    return PythonFrame(address, code, instruction) if code is not None else None


def nearest(memory: Memory, layout: Layout, objects: Objects, address: int) -> list[CodeObject]:
    """What the frame at `address` and its nearest callers run, innermost first, as far as one run of the interpreter
    loop holds them."""
    stretch = next(_chain(memory, layout, objects, address, MOST_INLINED), Stretch())
    return [frame.code for frame in stretch.frames]


class ThreadState(NamedTuple):
    """A thread that has executed Python code: the address of its PyThreadState, the kernel id by which it knows itself
    (in a PID namespace another than outside of it), and its innermost Python frame (0: none)."""

    address: int
    native_id: int
    current_frame: int


def thread_states(memory: Memory, layout: Layout) -> Iterator[ThreadState]:
    """Those of all interpreters. UnreadableMemory for a wild pointer."""
    offsets = layout.offsets
    for state in _thread_states(memory, layout):
        native_id = memory.word(state + offsets["thread_state.native_thread_id"])
        current = memory.word(state + offsets["thread_state.current_frame"])
        yield ThreadState(state, native_id, current)


def stretches_from(memory: Memory, layout: Layout, objects: Objects, frame: int) -> Iterator[Stretch]:
    """The stretches of a thread whose innermost Python frame is at that address."""
    return _chain(memory, layout, objects, frame)


def first_marker(memory: Memory, layout: Layout, frame: int) -> int:
    """The address of the first marker frame from the Python frame at `frame` on: it lies on the C stack of the thread
    that the frames are of. 0, where there is none."""
    offsets = layout.offsets
    seen: set[int] = set()
    with suppress(UnreadableMemory):
        while frame and frame not in seen and len(seen) < MOST_FRAMES:
            seen.add(frame)
            owner = memory.checked_read(frame + offsets["interpreter_frame.owner"], 1)[0]
            if owner == layout.record.frame_of_interpreter:
                return frame
            frame = memory.word(frame + offsets["interpreter_frame.previous"])
    return 0


def gil_holders(memory: Memory, layout: Layout) -> set[int] | None:
    """The kernel ids of the threads that hold the GIL of their interpreter; None where that cannot be read."""
    states = gil_states(memory, layout)
    if states is None:
        return None
    try:
        return {memory.word(state + layout.offsets["thread_state.native_thread_id"]) for state in states}
    except UnreadableMemory:
        return None


def gil_states(memory: Memory, layout: Layout) -> set[int] | None:
    """The thread states that hold the GIL of their interpreter; None where that cannot be read.

    A GIL says whether it is locked, and who has taken it last (struct _gil_runtime_state, CPython
    Include/internal/pycore_gil.h).
    """
    offsets = layout.offsets
    own = offsets["interpreter_state.gil_runtime_state"]
    locked = offsets["interpreter_state.gil_runtime_state_locked"] - own
    holder = offsets["interpreter_state.gil_runtime_state_holder"] - own
    found = set()
    try:
        for interpreter in interpreters(memory, layout):
            gil = memory.word(interpreter + offsets["interpreter_state.ceval_gil"])
            is_locked = gil and memory.checked_read(gil + locked, 4) == _LOCKED
            state = memory.word(gil + holder) if is_locked else 0
            if state:
                found.add(state)
    except UnreadableMemory:
        return None
    return found


_LOCKED = b"\1\0\0\0"


def stretches(memory: Memory, layout: Layout, objects: Objects, thread_id: int) -> list[Stretch]:
    """The stretches of the thread with that native (kernel) id, innermost first; empty, if it has none."""
    offsets = layout.offsets
    try:
        for state in _thread_states(memory, layout):
            if memory.word(state + offsets["thread_state.native_thread_id"]) == thread_id:
                current = memory.word(state + offsets["thread_state.current_frame"])
                return list(_chain(memory, layout, objects, current))
    except UnreadableMemory:
        pass
    return []


def running_executors(memory: Memory, layout: Layout) -> dict[int, list[int]]:
    """By the address of an executor: the native ids of the threads whose state names it as the one that they run
    (PyThreadState.current_executor). CPython sets it when JIT code is entered, and clears it when the innermost
    JIT code is left: a thread that is in JIT code further out on its stack alone may have none."""
    found: dict[int, list[int]] = {}
    with suppress(UnreadableMemory):
        for state in _thread_states(memory, layout):
            executor = memory.word(state + layout.executor.current)
            if executor:
                thread = memory.word(state + layout.offsets["thread_state.native_thread_id"])
                found.setdefault(executor, []).append(thread)
    return found


def _thread_states(memory: Memory, layout: Layout) -> Iterator[int]:
    for interpreter in interpreters(memory, layout):
        state = memory.word(interpreter + layout.offsets["interpreter_state.threads_head"])
        seen: set[int] = set()
        while state and state not in seen and len(seen) < MOST_THREADS:
            seen.add(state)
            yield state
            state = memory.word(state + layout.offsets["thread_state.next"])


def _chain(
    memory: Memory, layout: Layout, objects: Objects, address: int, most: int = MOST_FRAMES
) -> Iterator[Stretch]:
    offsets = layout.offsets
    stretch, seen = Stretch(), set[int]()
    while address and address not in seen and len(seen) < most:
        seen.add(address)
        try:
            owner = memory.checked_read(address + offsets["interpreter_frame.owner"], 1)[0]
            previous = memory.word(address + offsets["interpreter_frame.previous"])
        except UnreadableMemory:
            break
        if owner == layout.record.frame_of_interpreter:
            stretch.marker = address
            yield stretch
            stretch = Stretch()
        else:
            frame = frame_at(memory, layout, objects, address)
            if frame is not None:
                stretch.frames.append(frame)
        address = previous
    if stretch.frames:
        yield stretch
