"""The JIT code on the stacks: its rules for `walk`, and what a frame in it is called.

The one place in `stacks` that knows which JITs there are; today that is CPython's.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from jitunwind.arch.known import decoder
from jitunwind.errors import UnreadableMemory
from jitunwind.jits.cpython.frames import (
    Stretch,
    ThreadState,
    first_marker,
    frame_at,
    gil_states,
    nearest,
    stretches_from,
    thread_states,
)
from jitunwind.jits.cpython.layout import Layout
from jitunwind.jits.cpython.objects import CodeObject
from jitunwind.jits.cpython.regions import ENTRY_NAME, JitCode, Regions
from jitunwind.memory import Memory
from jitunwind.recover.table import recover
from jitunwind.region import RegionKind
from jitunwind.rows import Row, UnwindTable
from jitunwind.stacks.model import Extent, Frame, FrameKind
from jitunwind.stacks.native import NoRules, Rules, rules_of_row
from jitunwind.stacks.walk import RawFrame


class _Described(NamedTuple):
    """What is known of an address in JIT code: a frame without its registers; the code object that the trace was made
    for, and the one that runs there."""

    frame: Frame
    owner: CodeObject | None
    runs: CodeObject | None


class CPythonCode:
    """The JIT code of a CPython, and its Python frames. `is_unchanged(start, size)`: whether code that stood still is
    in memory still, so that what the process says of it now is true of it."""

    def __init__(
        self, memory: Memory, layout: Layout, is_unchanged: Callable[[int, int], bool] | None = None
    ) -> None:
        self._memory, self._layout = memory, layout
        self._regions = Regions(memory, layout)
        self._is_unchanged = is_unchanged
        self._codes: dict[int, JitCode | None] = {}
        self._tables: dict[int, UnwindTable] = {}
        self._described: dict[tuple[int, bool], _Described | None] = {}

    @property
    def version(self) -> str:
        return self._layout.version_text

    @property
    def warnings(self) -> list[str]:
        return self._regions.warnings

    def is_on(self) -> bool | None:
        return self._regions.jit_is_on()

    def has_code(self) -> bool:
        return bool(self._regions.starts)

    # Rules

    def rules_at(self, pc: int) -> Rules | NoRules | None:
        if self._regions.meets(pc) is None:
            return None
        code = self._find(pc)
        if code is None:
            return NoRules(f"no executor is known at {pc:#x}")
        row = self._table(code).at_return_address(pc - code.start)
        return rules_of_row(row) if isinstance(row, Row) else NoRules(f"at {pc:#x}: {row.reason}")

    def _find(self, pc: int) -> JitCode | None:
        """The code at `pc`. Not that of an executor that has come since, at the place of one that has gone; 3.14's code
        says itself whose it is."""
        code = self._regions.find(pc)
        if code is None or code.shim_size or self._is_unchanged is None:
            return code
        if code.start not in self._codes:
            self._codes[code.start] = code if self._is_unchanged(code.start, code.size) else None
        return self._codes[code.start]

    def _table(self, code: JitCode) -> UnwindTable:
        table = self._tables.get(code.start)
        if table is None:
            arch = self._memory.architecture
            table = self._tables[code.start] = recover(arch, code.code, decoder(arch), code.entries(arch))
        return table

    def caller_of_unknown(self, registers: Mapping[int, int]) -> tuple[int, int] | None:
        arch = self._memory.architecture
        if self._regions.meets(registers[arch.program_counter]) is None:
            return None
        pointer = registers.get(arch.frame_pointer)
        return None if pointer is None else self._regions.body_frame(pointer)

    # Names

    def frame(self, raw: RawFrame, is_caller_of_jit: bool) -> Frame | None:
        """The frame, if it is in JIT code or in the shim by which that is entered. `is_caller_of_jit`: the next frame
        inwards is in JIT code."""
        found = self._at(raw.pc, raw.at_pc)
        if found is None:
            return self._entry(raw) if is_caller_of_jit else None
        frame = found.frame
        return self._running(raw, found) if frame.kind is FrameKind.JIT else frame

    def _at(self, pc: int, at_pc: bool) -> _Described | None:
        key = pc, at_pc
        if key not in self._described:
            code = self._find(pc) if self._regions.meets(pc) is not None else None
            self._described[key] = None if code is None else self._describe(code, pc, at_pc)
        return self._described[key]

    def _describe(self, code: JitCode, pc: int, at_pc: bool) -> _Described:
        regions = self._regions
        part = next(part for part in regions.parts(code) if pc in part)
        kind = FrameKind.JIT if part.kind is RegionKind.JIT else FrameKind.SHIM
        frame = Frame(pc, 0, kind, part.name, region=Extent(part.start, part.size))
        if kind is FrameKind.SHIM:
            return _Described(frame, None, None)
        owner, place = regions.code_object(code), regions.place(code, pc if at_pc else pc - 1)
        trace = function = None if owner is None else owner.qualname
        runs, file, line = owner, None, None
        if place is not None:
            runs, line = place
            function, file = runs.qualname, runs.filename
        frame = frame._replace(function=function, trace=trace, file=file, line=line)
        return _Described(frame, owner, None if place is None else runs)

    def _running(self, raw: RawFrame, found: _Described) -> Frame:
        """Which function runs there, and where. At a call the interpreter's frame is up to date: its instruction
        pointer says the line."""
        regions = self._regions
        address = raw.registers.get(self._layout.record.frame_registers[self._memory.architecture.name], 0)
        code, frame = found.runs, found.frame
        if not raw.at_pc and address:
            python = frame_at(self._memory, self._layout, regions.objects, address)
            if python is not None and python.line is not None:
                code = python.code
                frame = frame._replace(function=code.qualname, file=code.filename, line=python.line)
        if code is None or found.owner is None or _same(code, found.owner):
            return frame
        callers = nearest(self._memory, self._layout, regions.objects, address)
        return frame._replace(inlined=any(_same(caller, found.owner) for caller in callers))

    def _entry(self, raw: RawFrame) -> Frame | None:
        """3.15's one shim, which is the interpreter's own code."""
        if self._layout.executor.shim_in_region:
            return None
        shim = self._regions.entry_shim
        if shim is not None and raw.pc not in shim:
            return None
        region = None if shim is None else Extent(shim.start, shim.size)
        return Frame(raw.pc, raw.sp, FrameKind.SHIM, ENTRY_NAME, region=region)

    # The interpreter's own frames

    def threads(self) -> Iterator[ThreadState]:
        """The threads that have executed Python code, as far as they can be read."""
        try:
            yield from thread_states(self._memory, self._layout)
        except UnreadableMemory:
            return

    def holders(self) -> set[int] | None:
        """The states of the threads that hold a GIL; None where that cannot be read."""
        return gil_states(self._memory, self._layout)

    def stretches(self, state: ThreadState) -> Iterator[Stretch]:
        """The Python frames of a thread, innermost first, by run of the interpreter loop."""
        return stretches_from(self._memory, self._layout, self._regions.objects, state.current_frame)

    def first_marker(self, state: ThreadState) -> int:
        """An address on the thread's C stack; 0, where it executes no Python code."""
        return first_marker(self._memory, self._layout, state.current_frame)


def _same(one: CodeObject, other: CodeObject) -> bool:
    """Whether both are of the same function, to a reader."""
    return (one.qualname, one.filename) == (other.qualname, other.filename)
