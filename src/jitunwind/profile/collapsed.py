"""Collapsed stacks: a line for each stack, `outermost;…;innermost weight`, as flamegraph.pl and others read them.

Out goes text, or in comes such text of anybody's, and out goes a recording in which every sample has the same moment.
"""

from collections import Counter

from jitunwind.errors import BadRecording
from jitunwind.profile.labels import frame_of, label
from jitunwind.profile.recording import Origin, Recording

_MOST_FRAMES = 1 << 16
"""Of one stack that is read."""


def write(recording: Recording, with_lines: bool) -> str:
    """The heaviest stacks first; those of all threads together."""
    labels = [label(frame, with_lines) for frame in recording.frames]
    found: Counter[str] = Counter()
    for stack, weight in recording.weights().items():
        found[";".join([labels[frame] for frame in recording.stacks[stack]]) or "[unknown]"] += weight
    return "".join(f"{line} {weight}\n" for line, weight in found.most_common())


def read(text: str, name: str) -> Recording:
    """The recording that `text` is of; `name` is what errors and the recording call it. BadRecording."""
    recording = Recording(Origin(0, name, 1.0, "collapsed stacks"))
    thread = recording.thread(0, name)
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        stack, _, weight = line.rstrip().rpartition(" ")
        if not stack or not (weight.isascii() and weight.isdigit()):
            raise BadRecording(f"{name}, line {number}: this is no collapsed stack with a weight")
        frames = stack.split(";")
        if len(frames) > _MOST_FRAMES or not 0 < int(weight) < 1 << 32:
            raise BadRecording(f"{name}, line {number}: a stack of that size or weight is not to be believed")
        indices = tuple(recording.frame(frame_of(frame)) for frame in frames)
        recording.add(0.0, thread, recording.stack(indices), int(weight))
    if not len(recording):
        raise BadRecording(f"{name} has no stack in it")
    return recording
