"""Stacks as typed objects: what `jitunwind.stacks` gives, and `bt` prints."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple


class FrameKind(StrEnum):
    """What a frame is of: native code, JIT code, the code by which JIT code is entered, or, where they were asked for,
    a frame of the interpreter's own."""

    NATIVE = "native"
    JIT = "jit"
    SHIM = "shim"
    PYTHON = "python"


_NONE: Mapping[str, int] = MappingProxyType({})


class Extent(NamedTuple):
    """The JIT code that a frame is in: [start, start + size)."""

    start: int
    size: int


class Frame(NamedTuple):
    """One activation. Addresses are 64-bit.

    `name` is what its code is called; `function`, `file` and `line` what runs there, as far as that is known; `trace`
    the function that JIT code was made for, and `inlined` whether `function` is another one that it calls. `registers`
    are those of `bt`: callee-saved, by name, as far as they are known at this frame. `exact`: every rule that led here
    from the innermost frame was read or recovered; else one was guessed (the frame pointer's).
    """

    pc: int
    sp: int
    kind: FrameKind
    name: str
    function: str | None = None
    trace: str | None = None
    inlined: bool = False
    file: str | None = None
    line: int | None = None
    region: Extent | None = None
    registers: Mapping[str, int] = _NONE
    exact: bool = True


class Thread(NamedTuple):
    """A thread and its frames, the innermost first. `reason` says why the stack is not whole; empty, if it is.

    `state` is active, idle or stopped; None in a core. `gil`: whether it holds its interpreter's lock; None where that
    is not known.
    """

    tid: int
    name: str
    state: str | None
    gil: bool | None
    frames: tuple[Frame, ...]
    reason: str = ""


class Death(NamedTuple):
    """The signal that a core was written for, and the thread `tid` that got it. `code` is si_code (sigaction(2)),
    `address` what a fault was about, `sender` the process that sent it; None where that is not told."""

    name: str
    number: int
    tid: int
    code: int | None
    address: int | None
    sender: int | None


class Stacks(NamedTuple):
    """The stacks of a process or core, as they were at one moment.

    `python` is the version of its CPython, None where there is none that is known: `problem` says why, `problem_kind`
    names the error. `jit` is whether its JIT is on, None where that is not known; `jit_code` whether it has any JIT
    code, and `no_code` why none is known. `tids` are all threads there are. `stopped_seconds` is how long the process
    stood still; 0 for a core.
    `others` names the JITs of a process that is no such Python. `nameless` are the files of frames that no symbol was
    found for.
    """

    pid: int
    core: str | None
    command: str
    executable: str | None
    python: str | None
    jit: bool | None
    jit_code: bool
    threads: tuple[Thread, ...]
    tids: tuple[int, ...]
    warnings: tuple[str, ...]
    no_code: str = ""
    signal: Death | None = None
    others: str = ""
    problem: str = ""
    problem_kind: str = ""
    stopped_seconds: float = 0.0
    nameless: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether each stack is whole."""
        return bool(self.threads) and not any(thread.reason for thread in self.threads)
