"""Where the frames of an interpreter's language belong among a thread's native frames.

Each run of the interpreter loop has a marker on the thread's stack, which says which native frame executes them.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence

from jitunwind.jits.optional import SourceRun
from jitunwind.stacks.model import Frame, FrameKind


def interleaved(frames: Sequence[Frame], runs: Iterable[SourceRun]) -> list[Frame]:
    """`frames` with those of the language before the native frames that run them."""
    before: dict[int, list[Frame]] = {}
    pointers = [frame.sp for frame in frames]
    for run in runs:
        index = _run_by(frames, pointers, run)
        if index is not None:
            before.setdefault(index, []).extend(_source_frames(run))
    merged: list[Frame] = []
    for index, frame in enumerate(frames):
        merged.extend(before.get(index, ()))
        merged.append(frame)
    return merged


def _run_by(frames: Sequence[Frame], pointers: Sequence[int], run: SourceRun) -> int | None:
    """The index of the innermost frame of the run of the interpreter loop that holds `run`: the loop's own, on whose
    stack the marker lies, or that of the JIT code it has entered."""
    index = bisect_right(pointers, run.marker) - 1
    if index < 0:
        return None
    index = bisect_left(
        pointers, pointers[index]
    )  # functions that the compiler has inlined share a stack pointer
    while index > 0 and frames[index - 1].kind in (FrameKind.JIT, FrameKind.SHIM):
        index -= 1
    return index


def _source_frames(run: SourceRun) -> Iterator[Frame]:
    for each in run.frames:
        name = each.function
        frame = Frame(each.instruction, each.address, FrameKind.PYTHON, name, function=name)
        yield frame._replace(file=each.file, line=each.line)
