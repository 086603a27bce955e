"""Speedscope's JSON (https://www.speedscope.app/file-format-schema.json): a profile of samples for each thread."""

import json
from typing import Any

from jitunwind.profile.labels import by_function
from jitunwind.profile.recording import Frame, Kind, Recording

_SCHEMA = "https://www.speedscope.app/file-format-schema.json"
_MARKS = {Kind.JIT: " [JIT]", Kind.KERNEL: " [kernel]"}


def write(recording: Recording, with_lines: bool) -> str:
    """The whole document. Weights are seconds."""
    period, indices, frames = recording.origin.period, list[int](), dict[Frame, int]()
    for frame in recording.frames:
        indices.append(frames.setdefault(frame if with_lines else by_function(frame), len(frames)))
    stacks = [[indices[frame] for frame in stack] for stack in recording.stacks]
    samples: list[list[list[int]]] = [[] for _ in recording.threads]
    weights: list[list[float]] = [[] for _ in recording.threads]
    for sample in recording.samples():
        samples[sample.thread].append(stacks[sample.stack])
        weights[sample.thread].append(sample.weight * period)
    document = {
        "$schema": _SCHEMA,
        "shared": {"frames": [_frame(frame) for frame in frames]},
        "profiles": [
            {
                "type": "sampled",
                "name": f"{thread.name} ({thread.tid})",
                "unit": "seconds",
                "startValue": 0,
                "endValue": sum(weights[index]),
                "samples": samples[index],
                "weights": weights[index],
            }
            for index, thread in enumerate(recording.threads)
        ],
        "name": recording.origin.command or f"process {recording.origin.pid}",
        "activeProfileIndex": 0,
        "exporter": recording.origin.by,
    }
    return json.dumps(document, separators=(",", ":"))


def _frame(frame: Frame) -> dict[str, Any]:
    said: dict[str, Any] = {"name": frame.name + _MARKS.get(frame.kind, "")}
    if frame.file or frame.module:
        said["file"] = frame.file or frame.module
    if frame.line is not None:
        said["line"] = frame.line
    return said
