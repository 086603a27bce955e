"""What of a CPython must be copied while it stands still, so that its Python frames can be read when it runs again.

Frames lie in chunks of memory that each thread has for them (CPython Python/pystate.c, struct _stack_chunk), those of
generators elsewhere, and the markers of the interpreter loop on the C stack. Code objects and strings are read later:
they hardly ever go, and are checked before they are believed.
"""

from contextlib import suppress
from struct import Struct

from jitunwind.errors import UnreadableMemory
from jitunwind.jits.cpython.executors import executor_heads, interpreters
from jitunwind.jits.cpython.frames import gil_states, thread_states
from jitunwind.jits.cpython.layout import Layout
from jitunwind.jits.optional import Keeping
from jitunwind.memory import Memory

CHUNK = Struct("<QQQ")
"""struct _stack_chunk: previous, size, top (Include/internal/pycore_interpframe_structs.h)."""
LARGEST_CHUNK = 1 << 24
_MOST_CHUNKS = 1 << 14
_MOST_FRAMES = 1 << 18
_word = Struct("<Q").unpack_from


def keep_frames(memory: Memory, keeping: Keeping, layout: Layout) -> None:
    """Copy the Python frames of all threads. `keeping` is `memory`. What cannot be read is left out."""
    with suppress(UnreadableMemory):
        gil_states(memory, layout)
        for interpreter in interpreters(memory, layout):
            executor_heads(memory, layout, interpreter)
            memory.checked_read(interpreter + layout.executor.jit_switch, 1)
    with suppress(UnreadableMemory):
        for state in thread_states(memory, layout):
            with suppress(UnreadableMemory):
                chunk = memory.word(state.address + layout.offsets["thread_state.datastack_chunk"])
                keep_chunks(keeping, chunk, _MOST_CHUNKS)
            with suppress(UnreadableMemory):
                keep_chain(keeping, layout, state.current_frame, _MOST_FRAMES)


def keep_chunks(keeping: Keeping, chunk: int, most: int) -> None:
    """Copy the chunk of frames at an address, and those before it, `most` at most. UnreadableMemory."""
    seen: set[int] = set()
    while chunk and chunk not in seen and len(seen) < most:
        seen.add(chunk)
        previous, size, _ = CHUNK.unpack(keeping.keep(chunk, CHUNK.size))
        keeping.keep(chunk, max(CHUNK.size, min(size, LARGEST_CHUNK)))
        chunk = previous


def keep_chain(keeping: Keeping, layout: Layout, frame: int, most: int) -> None:
    """Copy the frames that were not copied with a chunk, by following the chain of all, of `most` at most.
    UnreadableMemory."""
    previous_at, size = layout.offsets["interpreter_frame.previous"], layout.offsets["interpreter_frame.size"]
    start, data, last = 0, memoryview(b""), -1
    seen: set[int] = set()
    while frame and frame not in seen and len(seen) < most:
        seen.add(frame)
        within = frame - start
        if not 0 <= within <= last:
            start, data = keeping.copy_around(frame) or (frame, data[:0])
            if frame - start + size > len(data):
                start, data = frame, keeping.keep(frame, size)
            last, within = len(data) - size, frame - start
        (frame,) = _word(data, within + previous_at)
