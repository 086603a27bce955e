"""Where a CPython's Python frames belong among a thread's native frames: by the markers on its stack.

Each run of the interpreter loop has a marker on the C stack. So a stack tells which Python frames are its own: in a
core, too, and in a PID namespace, where thread ids are others inside than outside.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence

from jitunwind.jits.cpython.frames import Stretch, ThreadState
from jitunwind.memory import Memory
from jitunwind.memory.live import ids_inside
from jitunwind.stacks.jitcode import CPythonCode
from jitunwind.stacks.model import Frame, FrameKind
from jitunwind.stacks.snapshot import mapping_in
from jitunwind.stacks.walk import RawFrame


def by_thread(
    jit: CPythonCode, memory: Memory, stacks: Mapping[int, Sequence[RawFrame]], live: int
) -> dict[int, list[ThreadState]]:
    """The thread states of each thread, by the thread's frames. Those without a marker, which execute nothing now, go by the kernel id. `live`:
    the number of the process; 0 for a core."""
    pointers = sorted((frame.sp, tid) for tid, frames in stacks.items() for frame in frames if frame.at_pc)
    mappings = memory.mappings()
    found: dict[int, list[ThreadState]] = {}
    inner: dict[int, int] | None = None
    for state in jit.threads():
        marker = jit.first_marker(state)
        tid = _owner(pointers, mappings, marker) if marker else None
        if tid is None:
            inner = {tid: tid for tid in stacks} | ids_inside(live) if inner is None else inner
            tid = inner.get(state.native_id)
        if tid is not None:
            found.setdefault(tid, []).append(state)
    return found


def _owner(pointers: Sequence[tuple[int, int]], mappings: Sequence, address: int) -> int | None:  # type: ignore[type-arg]
    """The thread on whose stack `address` lies: the one with the nearest stack pointer below, in the same mapping. Of
    the `pointers` there is one for each stack that a thread uses: its signal handlers may have another."""
    index = bisect_right(pointers, (address, 1 << 64)) - 1
    mapping = mapping_in(mappings, address)
    if index < 0 or mapping is None or not mapping.start <= pointers[index][0]:
        return None
    return pointers[index][1]


def interleaved(frames: Sequence[Frame], stretches: Iterable[Stretch]) -> list[Frame]:
    """`frames` with the Python frames before the native frames that run them."""
    before: dict[int, list[Frame]] = {}
    pointers = [frame.sp for frame in frames]
    for stretch in stretches:
        index = _run_by(frames, pointers, stretch)
        if index is not None:
            before.setdefault(index, []).extend(_python_frames(stretch))
    merged: list[Frame] = []
    for index, frame in enumerate(frames):
        merged.extend(before.get(index, ()))
        merged.append(frame)
    return merged


def _run_by(frames: Sequence[Frame], pointers: Sequence[int], stretch: Stretch) -> int | None:
    """The index of the innermost frame of the run of the interpreter loop that holds `stretch`: the loop's own, on
    whose stack the marker lies, or that of the JIT code it has entered."""
    index = bisect_right(pointers, stretch.marker) - 1
    if index < 0:
        return None
    index = bisect_left(
        pointers, pointers[index]
    )  # functions that the compiler has inlined share a stack pointer
    while index > 0 and frames[index - 1].kind in (FrameKind.JIT, FrameKind.SHIM):
        index -= 1
    return index


def _python_frames(stretch: Stretch) -> Iterator[Frame]:
    for each in stretch.frames:
        name = each.code.qualname
        yield Frame(
            each.instruction,
            each.address,
            FrameKind.PYTHON,
            name,
            function=name,
            file=each.code.filename,
            line=each.line,
        )
