"""Shares of time: of JIT code, the interpreter, C and the kernel in all, and by function how it ran.

In come recordings, out come numbers: for the tables on the terminal and on the page.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from jitunwind.profile.labels import by_function
from jitunwind.profile.recording import Frame, Kind, Recording

_PYTHON = (Kind.PYTHON, Kind.JIT)


def _nothing() -> dict[Kind, int]:
    return dict.fromkeys(Kind, 0)


@dataclass
class Function:
    """A Python function, or one of C; weights. `total`: of stacks that have it. `kinds`: of those whose innermost
    Python function it is, by what the innermost frame is of; `from_jit`: of these, the ones that ran in JIT code, or in
    C that JIT code had called. For a function of C, `kinds` has the stacks that end in it, and `file` is its library.
    """

    name: str
    file: str | None
    line: int | None = None
    total: int = 0
    kinds: dict[Kind, int] = field(default_factory=_nothing)
    from_jit: int = 0

    @property
    def own(self) -> int:
        return sum(self.kinds.values())

    @property
    def in_c(self) -> int:
        """Of its own, what ran in C or in the kernel."""
        return self.kinds[Kind.NATIVE] + self.kinds[Kind.KERNEL]


class Shares:
    """Of all that was added so far; weights. `kinds`: by what the innermost frame is of. `from_jit`: of those that ran
    C or the kernel, the ones that JIT code had called. `with_lines`: each line is a function of its own."""

    def __init__(self, with_lines: bool = False) -> None:
        self.weight = self.from_jit = 0
        self.kinds = _nothing()
        self._with_lines = with_lines
        self._python: dict[Frame, Function] = {}
        self._native: dict[Frame, Function] = {}

    def add(self, recording: Recording) -> None:
        """Add the samples of a recording."""
        plain = [self._plain(frame) for frame in recording.frames]
        for index, weight in recording.weights().items():
            self.weight += weight
            stack = recording.stacks[index]
            if stack:
                self._add([recording.frames[at] for at in stack], [plain[at] for at in stack], weight)

    def _plain(self, frame: Frame) -> Frame:
        """What the frames of one function have in common."""
        plain = frame if self._with_lines else by_function(frame)
        return plain._replace(kind=Kind.PYTHON) if plain.kind is Kind.JIT else plain

    def _add(self, stack: Sequence[Frame], plain: Sequence[Frame], weight: int) -> None:
        innermost = stack[-1].kind
        self.kinds[innermost] += weight
        for frame in set(plain):
            if frame.kind is not Kind.WAITING:
                self._function(frame).total += weight
        python = [at for at, frame in enumerate(stack) if frame.kind in _PYTHON and frame.is_named]
        native = [at for at, frame in enumerate(stack) if frame.kind in (Kind.NATIVE, Kind.KERNEL)]
        if native and (innermost is Kind.WAITING or native[-1] == len(stack) - 1):
            self._function(plain[native[-1]]).kinds[innermost] += weight
        if not python:
            return
        own = self._function(plain[python[-1]])
        own.kinds[innermost] += weight
        if stack[python[-1]].kind is Kind.JIT and innermost is not Kind.WAITING:
            own.from_jit += weight
            self.from_jit += weight if innermost in (Kind.NATIVE, Kind.KERNEL) else 0

    def _function(self, plain: Frame) -> Function:
        known = self._python if plain.kind in _PYTHON and plain.is_named else self._native
        found = known.get(plain)
        if found is None:
            place = plain.file or plain.module or None
            found = known[plain] = Function(plain.name, place, plain.line)
        return found

    @property
    def has_python(self) -> bool:
        """Whether a Python function was seen."""
        return bool(self._python)

    def by_own(self) -> list[Function]:
        """The Python functions, those with the most time of their own first; where there are none, those of C."""
        found = self._python or self._native
        return sorted(found.values(), key=lambda each: (-each.own, -each.total, each.name))
