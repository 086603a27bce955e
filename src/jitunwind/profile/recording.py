"""A recording: the samples of a process's stacks, whoever took them, as plain data that every writer reads.

Frames and stacks are kept once and named by their index, so that a million samples take some 25 bytes each. Samplers
add to a `Recording`; writers only read it.
"""

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple


class Kind(StrEnum):
    """What a frame is of. `PYTHON`: a Python function that the interpreter runs; `JIT`: one that runs in JIT code (of
    CPython's, or of another JIT's functions); `NATIVE`: C and the like; `KERNEL`: the kernel; `WAITING`: no function,
    but the mark at the inner end of a stack of a thread that did not run, and the name says why."""

    PYTHON = "python"
    JIT = "jit"
    NATIVE = "native"
    KERNEL = "kernel"
    WAITING = "waiting"


class Frame(NamedTuple):
    """A function on a stack. `file` and `line` (None: not known) are where it is in the source; `module` is the path of
    the file that its machine code is of, empty where that is none or not known. `is_named`: somebody has told what
    function it is; else `name` only says where the code is."""

    kind: Kind
    name: str
    file: str | None = None
    line: int | None = None
    module: str = ""
    is_named: bool = True


class Thread(NamedTuple):
    """By its kernel id. Two with the same id are different threads that had it one after the other."""

    tid: int
    name: str


class Sample(NamedTuple):
    """What a thread ran at one moment: `time` in seconds since the recording began; `thread` and `stack` are indices in
    the recording; `weight` is how many periods of the sampler it stands for, 1 or more."""

    time: float
    thread: int
    stack: int
    weight: int


@dataclass
class Counts:
    """Of moments and of samples, for the person who reads them.

    `moments`: at which the process was to be looked at; `missed`: those of them that passed while the sampler was busy;
    `late`: those at which it looked more than half a period after their time. Of the samples, `cut` are those whose
    stack is not whole (`reasons` says why, by how often), `unnamed` those in JIT code of which nobody knows the
    function. `lost`: threads that were to be sampled at a moment, and could not be. `queued`: those that had come out
    of a system call's wait and waited for a processor. `halted`: moments at which a signal or a debugger had stopped
    the whole process. `stopped`: seconds for which threads stood still for the sampler, all together.
    """

    moments: int = 0
    missed: int = 0
    late: int = 0
    cut: int = 0
    unnamed: int = 0
    lost: int = 0
    queued: int = 0
    halted: int = 0
    stopped: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)


@dataclass
class Origin:
    """What was recorded, and how. `period`: seconds between two samples of a running thread; `seconds`: how long the
    recording took; `began`: seconds since the epoch. `python`: the version of the CPython, None where none is known;
    `jit`: whether its JIT was on, None where that is not known. `by`: who took the samples."""

    pid: int
    command: str
    period: float
    by: str
    python: str | None = None
    jit: bool | None = None
    began: float = 0.0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)


class Recording:
    """Samples, with the frames, stacks and threads that they name by index.

    A stack is a tuple of indices of frames, the outermost first; the empty one is a sample of which nothing is known.
    """

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.counts = Counts()
        self.frames: list[Frame] = []
        self.stacks: list[tuple[int, ...]] = []
        self.threads: list[Thread] = []
        self._times, self._weights = array("d"), array("I")
        self._sample_threads, self._sample_stacks = array("I"), array("I")
        self._frames: dict[Frame, int] = {}
        self._stacks: dict[tuple[int, ...], int] = {}

    def __len__(self) -> int:
        """How many samples there are."""
        return len(self._times)

    def frame(self, frame: Frame) -> int:
        """The index of a frame that is equal to this one."""
        found = self._frames.get(frame)
        if found is None:
            found = self._frames[frame] = len(self.frames)
            self.frames.append(frame)
        return found

    def stack(self, frames: tuple[int, ...]) -> int:
        """The index of the stack of these frames, outermost first."""
        found = self._stacks.get(frames)
        if found is None:
            found = self._stacks[frames] = len(self.stacks)
            self.stacks.append(frames)
        return found

    def thread(self, tid: int, name: str) -> int:
        """The index of a new thread."""
        self.threads.append(Thread(tid, name))
        return len(self.threads) - 1

    def rename(self, thread: int, name: str) -> None:
        """Give a thread that has been named before another name, unless that is empty."""
        if name:
            self.threads[thread] = self.threads[thread]._replace(name=name)

    def add(self, time: float, thread: int, stack: int, weight: int = 1) -> None:
        """Add a sample; samples come in the order of their time."""
        self._times.append(time)
        self._sample_threads.append(thread)
        self._sample_stacks.append(stack)
        self._weights.append(weight)

    def samples(self) -> Iterator[Sample]:
        """All samples, by rising time."""
        return map(Sample, self._times, self._sample_threads, self._sample_stacks, self._weights)

    def weights(self) -> Counter[int]:
        """The weight of each stack, all threads together."""
        if all(weight == 1 for weight in self._weights):
            return Counter(self._sample_stacks)
        found: Counter[int] = Counter()
        for stack, weight in zip(self._sample_stacks, self._weights, strict=True):
            found[stack] += weight
        return found

    def weights_of_threads(self) -> Counter[tuple[int, int]]:
        """The weight of each pair of a stack and a thread."""
        found: Counter[tuple[int, int]] = Counter()
        samples = zip(self._sample_stacks, self._sample_threads, self._weights, strict=True)
        for stack, thread, weight in samples:
            found[stack, thread] += weight
        return found

    def translated(self, frames: Sequence[tuple[Frame, ...]]) -> "Recording":
        """The same samples, with the frames `frames[index]`, outermost first, in place of each index in its stacks."""
        new = self._emptied()
        indices = [tuple([new.frame(frame) for frame in each]) for each in frames]
        stacks = [
            new.stack(tuple([frame for place in stack for frame in indices[place]])) for stack in self.stacks
        ]
        new._times, new._weights, new._sample_threads = self._times, self._weights, self._sample_threads
        new._sample_stacks = array("I", [stacks[stack] for stack in self._sample_stacks])
        return new

    def since(self, number: int) -> "Recording":
        """The samples from that number on, with the stacks that they have."""
        new = self._emptied()
        new._times, new._weights = self._times[number:], self._weights[number:]
        new._sample_threads = self._sample_threads[number:]
        new._sample_stacks = array(
            "I", [new.stack(self.stacks[stack]) for stack in self._sample_stacks[number:]]
        )
        return new

    def _emptied(self) -> "Recording":
        new = Recording(self.origin)
        new.counts, new.threads = self.counts, self.threads
        return new

    @property
    def weight(self) -> int:
        """Of all samples."""
        return sum(self._weights)
