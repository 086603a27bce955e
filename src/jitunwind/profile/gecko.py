"""The Firefox Profiler's Gecko format (https://profiler.firefox.com), version 24, as the kernel's own converter of perf
data writes it (tools/perf/scripts/python/gecko.py): tables of stacks, frames and strings for each thread."""

import json
from typing import Any

from jitunwind.profile.recording import Frame, Kind, Recording, Sample

_VERSION = 24
_CATEGORIES = {
    Kind.PYTHON: ("Python, interpreter", "blue"),
    Kind.JIT: ("Python, JIT code", "green"),
    Kind.NATIVE: ("Native", "yellow"),
    Kind.KERNEL: ("Kernel", "orange"),
    Kind.WAITING: ("Waiting", "transparent"),
}
_PLACES = {kind: index for index, kind in enumerate(_CATEGORIES)}
_SAMPLES = {"stack": 0, "time": 1, "responsiveness": 2}
_STACKS = {"prefix": 0, "frame": 1}
_FRAMES = {
    "location": 0,
    "relevantForJS": 1,
    "innerWindowID": 2,
    "implementation": 3,
    "optimizations": 4,
    "line": 5,
    "column": 6,
    "category": 7,
    "subcategory": 8,
}
_MARKERS = {"name": 0, "startTime": 1, "endTime": 2, "phase": 3, "category": 4, "data": 5}


def write(recording: Recording, with_lines: bool) -> str:
    """The whole document. Times are milliseconds. A sample of a weight of n stands n times, so that all count the
    same; lines are there in any case."""
    origin = recording.origin
    by_thread: list[list[Sample]] = [[] for _ in recording.threads]
    for sample in recording.samples():
        by_thread[sample.thread].append(sample)
    meta = {
        "interval": 1000 * origin.period,
        "processType": 0,
        "product": origin.command or f"process {origin.pid}",
        "stackwalk": 1,
        "debug": 0,
        "gcpoison": 0,
        "asyncstack": 0,
        "startTime": 1000 * origin.began,
        "shutdownTime": None,
        "version": _VERSION,
        "presymbolicated": True,
        "categories": [
            {"name": name, "color": color, "subcategories": ["Other"]} for name, color in _CATEGORIES.values()
        ],
        "markerSchema": [],
    }
    threads = [
        _Thread(recording, samples).document(each.tid, each.name)
        for each, samples in zip(recording.threads, by_thread, strict=True)
    ]
    document = {"meta": meta, "libs": [], "threads": threads, "processes": [], "pausedRanges": []}
    return json.dumps(document, separators=(",", ":"))


class _Thread:
    """The tables of one thread."""

    def __init__(self, recording: Recording, samples: list[Sample]) -> None:
        self._recording, self._samples = recording, samples
        self._strings: dict[str, int] = {}
        self._frames: dict[int, int] = {}
        self._frame_rows: list[list[Any]] = []
        self._stacks: dict[tuple[int | None, int], int] = {}
        self._whole: dict[int, int | None] = {}

    def document(self, tid: int, name: str) -> dict[str, Any]:
        samples = [
            [self._stack(each.stack), 1000 * each.time, 0]
            for each in self._samples
            for _ in range(each.weight)
        ]
        begins = 1000 * self._samples[0].time if self._samples else 0
        return {
            "tid": tid,
            "pid": self._recording.origin.pid,
            "name": name,
            "processType": "default",
            "processName": self._recording.origin.command,
            "registerTime": begins,
            "unregisterTime": None,
            "markers": {"schema": _MARKERS, "data": []},
            "samples": {"schema": _SAMPLES, "data": samples},
            "frameTable": {"schema": _FRAMES, "data": self._frame_rows},
            "stackTable": {"schema": _STACKS, "data": [list(each) for each in self._stacks]},
            "stringTable": list(self._strings),
        }

    def _stack(self, index: int) -> int | None:
        """The index of a whole stack; None for the empty one."""
        if index not in self._whole:
            prefix: int | None = None
            for frame in self._recording.stacks[index]:
                prefix = self._stacks.setdefault((prefix, self._frame(frame)), len(self._stacks))
            self._whole[index] = prefix
        return self._whole[index]

    def _frame(self, index: int) -> int:
        found = self._frames.get(index)
        if found is None:
            frame = self._recording.frames[index]
            found = self._frames[index] = len(self._frame_rows)
            how = self._string("jit") if frame.kind is Kind.JIT else None
            where = self._string(_location(frame))
            self._frame_rows.append([where, False, 0, how, None, frame.line, None, _PLACES[frame.kind], 0])
        return found

    def _string(self, text: str) -> int:
        return self._strings.setdefault(text, len(self._strings))


def _location(frame: Frame) -> str:
    """As the profiler takes names apart: `function (in library)`, for Python its file."""
    of = frame.file or frame.module
    return f"{frame.name} (in {of})" if of else frame.name
