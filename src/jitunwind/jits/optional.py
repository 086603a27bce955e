"""What only some JITs can tell: a protocol for each, asked for with `isinstance`."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from jitunwind.jits import Code
from jitunwind.region import Region
from jitunwind.rows import Unknown

ReadRegister = Callable[[int], int | None]
"""A register of one frame by its DWARF number; None where it is not to be had."""


class Position(NamedTuple):
    """What runs at a program counter. `trace`: the function that the code was made for; `is_inlined`: `function` is
    another one, which that one calls."""

    function: str | None = None
    file: str | None = None
    line: int | None = None
    trace: str | None = None
    is_inlined: bool = False


@runtime_checkable
class Positions(Protocol):
    """A JIT that tells by a frame's registers what runs there, better than its line tables do."""

    def position(self, code: Code, pc: int, is_exact: bool, read: ReadRegister) -> Position:
        """`is_exact`: the frame is at `pc`; else at the call before it."""


@runtime_checkable
class Fallback(Protocol):
    """A JIT whose frames can be left even where its code is not known."""

    def unwind_unknown(self, pc: int, read: ReadRegister) -> tuple[int, int] | None:
        """CFA and return address of the frame at `pc`; the frame pointer is unchanged there."""


@runtime_checkable
class Announces(Protocol):
    """A JIT whose code may run before it is in any list."""

    @property
    def announcer(self) -> tuple[str, str] | None:
        """The library (the beginning of its file's name) and the function of it that the JIT calls last, before new
        code runs; None where lists are enough."""

    def lists_are_current(self) -> bool:
        """`is_current` by lists alone, which is cheap, and may miss code that is not in them yet."""


@runtime_checkable
class Switched(Protocol):
    """A JIT that can be off."""

    off: str
    """Words for its being off, and how to switch it on."""

    def is_on(self) -> bool | None:
        """None where that cannot be told, or may still change."""


@runtime_checkable
class EntersByCall(Protocol):
    """A JIT whose gates come back to known places."""

    @property
    def gate_name(self) -> str | None:
        """What the one gate of all its code is called; None where each code has its own."""

    def gates(self) -> Sequence[Region]:
        """As `Jit.gates`."""

    def returns_to_gate(self, address: int) -> bool:
        """Whether a gate's call of JIT code comes back to `address`: a thread with that on its stack is in JIT code."""


class SourceFrame(NamedTuple):
    """A frame of the language itself: the address of its record, the instruction it is at, and what it runs."""

    address: int
    instruction: int
    function: str
    file: str
    line: int | None


class SourceRun(NamedTuple):
    """The frames of the language that one native frame executes, innermost first; that one has `marker` on its stack
    (an address; 0 where it is not known)."""

    frames: list[SourceFrame]
    marker: int


class SourceThread(NamedTuple):
    """A thread, as the interpreter knows it. `holds_lock`: whether it has the interpreter's lock; None where nobody can
    tell. `runs`, innermost first, where they were asked for."""

    holds_lock: bool | None
    runs: list[SourceRun]


@runtime_checkable
class Interpreted(Protocol):
    """A JIT beside an interpreter, whose frames can be read."""

    @property
    def version_text(self) -> str: ...

    def source_threads(
        self, stacks: Mapping[int, Sequence[int]], pid: int, with_runs: bool
    ) -> dict[int, SourceThread]:
        """Of each thread in `stacks`, which has the stack pointers of its frames by its native id; `pid` is the live
        process's, 0 for a core."""


class Keeping(Protocol):
    """Memory that keeps what is read while a process stands still: a copy, which is asked first afterwards."""

    def keep(self, address: int, size: int) -> memoryview:
        """Copy memory. UnreadableMemory, where not all of it is there."""

    def copy_around(self, address: int) -> tuple[int, memoryview] | None:
        """The copy in which `address` lies: where it begins, and its bytes."""


@runtime_checkable
class Kept(Protocol):
    """A JIT that needs parts of memory as they are now, when the process runs on."""

    def keep(self, keeping: Keeping) -> None:
        """Have them copied. Quick: the process stands still. `keeping` keeps all that the JIT reads of its memory."""


class SourceRecord(NamedTuple):
    """What the interpreter keeps of a thread: where, and the number by which it knows the thread."""

    address: int
    thread: int


@runtime_checkable
class Sampled(Protocol):
    """A JIT beside an interpreter, whose threads can be looked at again and again, one at a time."""

    def changing(self) -> list[tuple[int, int]]:
        """Memory (address, size) that has changed when code has come or gone, or what a piece of source was has been
        freed. It is worth asking again when it has."""

    def compare_anew(self) -> None:
        """That memory has changed: what is remembered of source is compared with the process before it is believed."""

    def records(self, pid: int) -> dict[int, list[SourceRecord]]:
        """Those of each thread of the live process `pid`, by its kernel id."""

    def keep_thread(self, keeping: Keeping, record: SourceRecord) -> None:
        """Have the frames of one thread copied, which stands still. Quick."""

    def runs(self, record: SourceRecord) -> list[SourceRun] | None:
        """Those of a thread whose frames were kept, innermost first; None, if the record is another thread's now."""

    def lock_holders(self) -> set[int] | None:
        """The addresses of the records of threads that hold the interpreter's lock; None where nobody can tell."""


class Step(NamedTuple):
    """A part of code that was made of one operation, [start, end) in the code: what people call it, and its source.
    `offset`: bytes in the bytecode of `function`."""

    title: str
    detail: str
    start: int
    end: int
    function: str = ""
    file: str = ""
    line: int | None = None
    offset: int | None = None


@runtime_checkable
class Traced(Protocol):
    """A JIT that can tell which of its operations each instruction comes of."""

    def steps(self, code: Code) -> list[Step] | Unknown:
        """One behind the other, from behind the gate on."""

    def count(self, code: Code) -> int | None:
        """How many there are, if that is known."""

    def begin(self, code: Code) -> tuple[str, int] | None:
        """The file and line of the source that the code begins with, if they are known."""

    def threads(self, code: Code) -> tuple[int, ...]:
        """The native ids of the threads that say of themselves that they run it."""
