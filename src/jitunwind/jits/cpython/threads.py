"""Which of CPython's threads is which of the kernel's: by the stack, on which each run of the interpreter loop has a
marker.

In come the stack pointers of each thread's frames, out come the thread states of each. CPython keeps the kernel's
number of a thread, too, but the one that the thread has in its own PID namespace (pid_namespaces(7)): other threads
may have it here.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from contextlib import suppress

from jitunwind.errors import UnreadableMemory
from jitunwind.jits.cpython.frames import ThreadState, first_marker, thread_states
from jitunwind.jits.cpython.layout import Layout
from jitunwind.memory import Memory
from jitunwind.memory.live import ids_inside


def states_by_thread(
    memory: Memory, layout: Layout, stacks: Mapping[int, Sequence[int]], pid: int
) -> dict[int, list[ThreadState]]:
    """The thread states of each kernel thread in `stacks`. A thread without a marker, which executes no Python code,
    is found by its number; `pid` is the live process's, 0 for others, whose numbers count as they are."""
    pointers = sorted((pointer, tid) for tid, each in stacks.items() for pointer in each)
    found: dict[int, list[ThreadState]] = {}
    inside: Mapping[int, int] | None = None
    with suppress(UnreadableMemory):
        for state in thread_states(memory, layout):
            marker = first_marker(memory, layout, state.current_frame)
            tid = _owner(pointers, marker) if marker else None
            if tid is None:
                inside = ids_inside(pid) if inside is None else inside
                tid = inside.get(state.native_id, state.native_id)
            found.setdefault(tid, []).append(state)
    return found


def _owner(pointers: Sequence[tuple[int, int]], address: int) -> int | None:
    """The thread that has frames on both sides of the address, next to it."""
    index = bisect_right(pointers, (address, 1 << 64))
    if not 0 < index < len(pointers) or pointers[index - 1][1] != pointers[index][1]:
        return None
    return pointers[index][1]
