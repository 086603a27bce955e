"""CPython's JIT as one of the JITs of a process: `Jit`, and all that only CPython's can tell.

Underneath are its regions (`regions`), Python's frames (`frames`) and micro-ops (`uops`).
"""

from collections.abc import Callable, Sequence
from collections.abc import Mapping as MappingOf
from functools import cached_property
from typing import TYPE_CHECKING

from jitunwind.arch.effects import Decoder
from jitunwind.errors import CorruptState, UnreadableMemory
from jitunwind.jits import Code
from jitunwind.jits.cpython.discovery import read_layout
from jitunwind.jits.cpython.frames import (
    PythonFrame,
    ThreadState,
    frame_at,
    gil_states,
    nearest,
    running_executors,
    stretches_from,
)
from jitunwind.jits.cpython.keeping import keep_frames
from jitunwind.jits.cpython.layout import Layout
from jitunwind.jits.cpython.objects import CodeObject
from jitunwind.jits.cpython.regions import ENTRY_NAME, Regions
from jitunwind.jits.cpython.threads import states_by_thread
from jitunwind.jits.cpython.unmapped import UnmappedRegions
from jitunwind.jits.optional import (
    Keeping,
    Position,
    ReadRegister,
    SourceFrame,
    SourceRecord,
    SourceRun,
    SourceThread,
    Step,
)
from jitunwind.memory import Mapping, Memory
from jitunwind.region import Line, Region
from jitunwind.rows import Unknown

if TYPE_CHECKING:  # only `record` needs the first, and `explain` the others
    from jitunwind.jits.cpython.sampled import Threads
    from jitunwind.jits.cpython.uops import MicroOp, MicroOps, Place


class CPythonJit:
    """The JIT of the CPython in `memory`; `layout` where it has been read already. NotPython, UnsupportedVersion."""

    off = "its JIT is off (PYTHON_JIT=1 turns it on), or it was built without one"

    def __init__(
        self,
        memory: Memory,
        decoder_at: Callable[[int], Decoder] | None = None,
        layout: Layout | None = None,
    ) -> None:
        self.layout = layout or read_layout(memory)
        self.memory = memory
        kind = Regions if memory.knows_anonymous else UnmappedRegions
        self.regions = kind(memory, self.layout, decoder_at)
        self._places: dict[tuple[int, bool], tuple[CodeObject | None, CodeObject | None, int | None]] = {}
        self._running: dict[int, list[int]] | None = None

    # As any JIT

    @property
    def name(self) -> str:
        return f"CPython {self.layout.version_text}"

    @property
    def warnings(self) -> list[str]:
        return self.regions.warnings

    def may_hold(self, pc: int) -> Mapping | None:
        return self.regions.meets(pc)

    def find(self, pc: int) -> Code | None:
        return self.regions.find(pc)

    @property
    def starts(self) -> Sequence[int]:
        return self.regions.starts

    def pieces(self, code: Code) -> Sequence[Region]:
        return self.regions.parts(code)

    def lines(self, code: Code) -> Sequence[Line]:
        return self.regions.lines(code)

    def gates(self) -> Sequence[Region]:
        shim = self.regions.entry_shim
        return () if shim is None else (shim,)

    def is_current(self) -> bool:
        self._places.clear()
        self._running = None
        return self.regions.is_current()

    # What only this one tells

    @property
    def version_text(self) -> str:
        return self.layout.version_text

    @property
    def announcer(self) -> tuple[str, str] | None:
        """Where each executor has its own shim, new ones must be found before they run."""
        return ("libc.so", "mprotect") if self.layout.executor.shim_in_region else None

    def lists_are_current(self) -> bool:
        return self.regions.lists_are_current()

    def is_on(self) -> bool | None:
        return self.regions.jit_is_on()

    @property
    def gate_name(self) -> str | None:
        return None if self.layout.executor.shim_in_region else ENTRY_NAME

    def returns_to_gate(self, address: int) -> bool:
        return self.regions.returns_to_shim(address)

    def unwind_unknown(self, pc: int, read: ReadRegister) -> tuple[int, int] | None:
        """By the frame pointer, where it is a body's that 3.15's shim has called."""
        frame_pointer = read(self.regions.arch.frame_pointer)
        return None if frame_pointer is None else self.regions.body_frame(frame_pointer)

    def position(self, code: Code, pc: int, is_exact: bool, read: ReadRegister) -> Position:
        """By the nearest store of an instruction pointer before `pc`; at a call the interpreter's frame, which a
        register holds, is up to date, and its own instruction pointer tells the line."""
        regions = self.regions
        known = self._places.get((pc, is_exact))
        if known is None:
            owner = regions.code_object(code)
            place = regions.place(code, pc if is_exact else pc - 1)
            known = self._places[pc, is_exact] = (owner, *(place or (None, None)))
        owner, runs, line = known
        address = read(self.layout.record.frame_registers[regions.arch.name]) or 0
        if not is_exact and address:
            python = self._frame_at(address)
            if python is not None and python.line is not None:
                runs, line = python.code, python.line
        trace = owner.qualname if owner is not None else None
        if runs is None:
            return Position(function=trace, trace=trace)
        is_inlined = owner is not None and not _same(runs, owner) and self._is_called_by(address, owner)
        return Position(runs.qualname, runs.filename, line, trace, is_inlined)

    def _frame_at(self, address: int) -> PythonFrame | None:
        return frame_at(self.memory, self.layout, self.regions.objects, address)

    def _is_called_by(self, address: int, owner: CodeObject) -> bool:
        """Whether the frame at `address` or one of its nearest callers runs `owner`."""
        callers = nearest(self.memory, self.layout, self.regions.objects, address)
        return any(_same(caller, owner) for caller in callers)

    def source_threads(
        self, stacks: MappingOf[int, Sequence[int]], pid: int, with_runs: bool
    ) -> dict[int, SourceThread]:
        holders = gil_states(self.memory, self.layout)
        states = states_by_thread(self.memory, self.layout, stacks, pid)
        found = {}
        for tid in stacks:
            own = states.get(tid, [])
            holds = None if holders is None else any(state.address in holders for state in own)
            runs = [run for state in own for run in self._runs_of(state)] if with_runs else []
            found[tid] = SourceThread(holds, runs)
        return found

    def keep(self, keeping: Keeping) -> None:
        keep_frames(self.memory, keeping, self.layout)

    def _runs_of(self, state: ThreadState) -> list[SourceRun]:
        if not state.current_frame:
            return []
        found = stretches_from(self.memory, self.layout, self.regions.objects, state.current_frame)
        return [SourceRun([_source_frame(frame) for frame in each.frames], each.marker) for each in found]

    # Its threads, sampled

    @cached_property
    def _threads(self) -> "Threads":
        from jitunwind.jits.cpython.sampled import Threads

        return Threads(self.memory, self.layout, self.regions.objects)

    def changing(self) -> list[tuple[int, int]]:
        return self._threads.changing()

    def compare_anew(self) -> None:
        self._places.clear()
        self._threads.compare_anew()

    def records(self, pid: int) -> dict[int, list[SourceRecord]]:
        return self._threads.records(pid)

    def keep_thread(self, keeping: Keeping, record: SourceRecord) -> None:
        self._threads.keep(keeping, record)

    def runs(self, record: SourceRecord) -> list[SourceRun] | None:
        return self._threads.runs(record)

    def lock_holders(self) -> set[int] | None:
        return self._threads.lock_holders()

    # Its micro-ops

    @cached_property
    def _micro_ops(self) -> "MicroOps":
        from jitunwind.jits.cpython.uops import MicroOps

        return MicroOps(self.regions)

    def count(self, code: Code) -> int | None:
        try:
            return self._micro_ops.count(code)
        except (UnreadableMemory, CorruptState):
            return None

    def begin(self, code: Code) -> tuple[str, int] | None:
        try:
            place = self._micro_ops.begin(code)
        except (UnreadableMemory, CorruptState):
            place = None
        if place is not None and (line := place.line) is not None:
            return place.code.filename, line
        lines = self.lines(code)
        return (lines[0].filename, lines[0].line) if lines else None

    def threads(self, code: Code) -> tuple[int, ...]:
        if self._running is None:
            self._running = running_executors(self.memory, self.layout)
        return tuple(self._running.get(code.owner, ()))

    def steps(self, code: Code) -> list[Step] | Unknown:
        try:
            trace = self._micro_ops.trace(code)
            offsets = self._micro_ops.offsets(code, trace)
            if isinstance(offsets, Unknown):
                return offsets
            places = self._micro_ops.places(code, trace)
        except (UnreadableMemory, CorruptState) as error:
            return Unknown(str(error))
        pairs = zip(trace, places, offsets, offsets[1:], strict=False)
        return [_step(micro_op, place, start, end) for micro_op, place, start, end in pairs]


def _same(one: CodeObject, other: CodeObject) -> bool:
    """Whether both are of the same function, to a reader."""
    return (one.qualname, one.filename) == (other.qualname, other.filename)


def _source_frame(frame: PythonFrame) -> SourceFrame:
    code = frame.code
    return SourceFrame(frame.address, frame.instruction, code.qualname, code.filename, frame.line)


def _step(micro_op: "MicroOp", place: "Place | None", start: int, end: int) -> Step:
    details = [f"oparg {micro_op.oparg}"] if micro_op.oparg else []
    if micro_op.operand:
        details.append(f"operand {micro_op.operand:#x}")
    step = Step(micro_op.name, ", ".join(details), start, end)
    if place is None or (line := place.line) is None:
        return step
    return step._replace(
        function=place.code.qualname, file=place.code.filename, line=line, offset=place.offset
    )
