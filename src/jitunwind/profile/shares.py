"""Shares of time: of JIT code, the interpreter, C and the kernel in all, and by Python function how it ran.

In come recordings, out come numbers: for the table on the terminal.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from jitunwind.profile.labels import by_function
from jitunwind.profile.recording import Frame, Kind, Recording


@dataclass
class Function:
    """A Python function; weights. `total`: of stacks that have it; `own`: of those whose innermost Python function it
    is, and of these, `jit`: it ran in JIT code, `native`: it had called C."""

    name: str
    file: str | None
    total: int = 0
    own: int = 0
    jit: int = 0
    native: int = 0


@dataclass
class Shares:
    """Of all that was added so far; weights. `kinds`: by what the innermost frame is of. `from_jit`: of those that ran
    C or the kernel, the ones that JIT code had called."""

    weight: int = 0
    kinds: dict[Kind, int] = field(default_factory=lambda: dict.fromkeys(Kind, 0))
    from_jit: int = 0
    functions: dict[tuple[str, str | None], Function] = field(default_factory=dict)

    def add(self, recording: Recording) -> None:
        """Add the samples of a recording."""
        for index, weight in recording.weights().items():
            self.weight += weight
            stack = [recording.frames[frame] for frame in recording.stacks[index]]
            if stack:
                self._add(stack, weight)

    def _add(self, stack: Sequence[Frame], weight: int) -> None:
        innermost = stack[-1].kind
        self.kinds[innermost] += weight
        python = [frame for frame in stack if frame.kind in (Kind.PYTHON, Kind.JIT) and frame.is_named]
        for frame in {by_function(frame)._replace(kind=Kind.PYTHON) for frame in python}:
            self._function(frame).total += weight
        if not python:
            return
        own = self._function(python[-1])
        own.own += weight
        is_jit = python[-1].kind is Kind.JIT
        own.jit += weight if is_jit else 0
        if innermost in (Kind.NATIVE, Kind.KERNEL):
            own.native += weight
            self.from_jit += weight if is_jit else 0

    def _function(self, frame: Frame) -> Function:
        key = frame.name, frame.file
        if key not in self.functions:
            self.functions[key] = Function(frame.name, frame.file)
        return self.functions[key]

    def by_own(self) -> list[Function]:
        """The functions, those with the most time of their own first."""
        return sorted(self.functions.values(), key=lambda each: (-each.own, -each.total, each.name))
