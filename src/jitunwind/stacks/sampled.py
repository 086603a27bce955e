"""A live process whose threads are looked at again and again, one at a time: what each has on its stack at a moment.

In comes a thread's number, out comes its stack: native, JIT and Python frames in one order. While the thread stands
still only bytes are copied (`moments`); all decoding comes afterwards, and is remembered from sample to sample.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import Enum, auto
from os.path import basename
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from jitunwind.arch.known import module
from jitunwind.errors import NoSuchProcess, NotPermitted
from jitunwind.jits.known import UNKNOWN_NAME, Jits
from jitunwind.jits.optional import (
    Interpreted,
    Position,
    Sampled,
    SourceFrame,
    SourceRecord,
    SourceRun,
    Switched,
)
from jitunwind.memory import Mapping
from jitunwind.memory.backing import BackingFile
from jitunwind.stacks.debugfiles import debug_folders
from jitunwind.stacks.fileframes import FileFrames
from jitunwind.stacks.moments import Copy, Moments, Watched
from jitunwind.stacks.native import NativeRules
from jitunwind.stacks.onethread import ThreadStopper
from jitunwind.stacks.runqueue import RunQueue
from jitunwind.stacks.sampledcode import JitPlace, SampledCode
from jitunwind.stacks.snapshot import registers_of
from jitunwind.stacks.symbols import Symbols
from jitunwind.stacks.walk import RawFrame, Walker

if TYPE_CHECKING:
    from jitunwind.stacks.lines import FileLines, Location

_PAGE = 4096
_LARGEST_STACK = 1 << 21
"""Bytes of a stack that are copied: copying a megabyte takes some 0.2 ms."""
_LARGEST_ALTERNATE = 1 << 16
_BEYOND = 64
"""Bytes beyond the outermost frame that are copied: what it says of itself."""
_word = Struct("<Q").unpack_from


class PlaceKind(Enum):
    PYTHON = auto()
    JIT = auto()
    NATIVE = auto()
    MARK = auto()


class Place(NamedTuple):
    """Where a frame is. A `NATIVE` one has no name yet: `file` and `address` (in the file's own terms) say what code it
    is; `path` is what the process calls the file. Others have a function, and its file and line as far as known; with
    an empty `function` nobody knows what JIT code it is. A `MARK` is no frame: its function is what the recorder has to
    say of the thread."""

    kind: PlaceKind
    function: str
    path: str | None
    line: int | None
    file: BackingFile | None = None
    address: int = 0


class Named(NamedTuple):
    """A function of native code. `is_named`: that is the name of a function, and not only where the code is."""

    function: str
    file: str | None = None
    line: int | None = None
    is_named: bool = True


class Taken(NamedTuple):
    """A stack: places by their index in `SampledProcess.places`, outermost first. `reason`: why it is not whole; `""`
    if it is. `is_unnamed`: it has JIT code that nobody knows. `is_queued`: the thread had waited in a
    system call, and now waited for a processor. `is_halted`: a signal had stopped its process."""

    places: tuple[int, ...]
    reason: str
    is_unnamed: bool
    is_queued: bool
    is_halted: bool


class _Bounds(NamedTuple):
    """Where a thread's own stack lies, and up to where it is worth a copy."""

    start: int
    end: int


class _Copy(NamedTuple):
    """Of one thread, while it stood still: its registers, its memory, and what told whether code had come or gone."""

    tid: int
    note: bytes
    memory: Copy
    programs: int
    is_queued: bool
    is_halted: bool
    changing: Watched | None = None
    marks: bytes = b""

    def is_current(self) -> bool:
        """Whether no code has come or gone since."""
        return self.changing is None or self.changing.now() == self.marks


class SampledProcess:
    """Process `pid`. NoSuchProcess, NotPermitted."""

    def __init__(
        self, pid: int, stopper: ThreadStopper, debug_dirs: Sequence[str] = (), c_lines: bool = False
    ) -> None:
        self.pid, self._stopper, self._debug_dirs = pid, stopper, tuple(debug_dirs)
        self._c_lines = c_lines
        self._file_lines: dict[int, FileLines] = {}
        self.python: str | None = None
        """The version of its CPython."""
        self.jit_was_on: bool | None = None
        self.places: list[Place] = []
        self._indices: dict[Place, int] = {}
        self._python_at: dict[tuple[str, str, int | None], int] = {}
        self._queue = RunQueue(pid)
        self.programs = 0
        """How many the process has run since it is looked at."""
        self._start()

    def _start(self) -> None:
        """Look at the program that the process runs."""
        self.memory = Moments(self.pid)
        self.programs += 1
        self._arch = self.memory.architecture
        state = module(self._arch, "state")
        self._sp_at = 8 * state.GENERAL[self._arch.stack_pointer]
        self._thread_pointer_at = None if state.THREAD_POINTER is None else 8 * state.THREAD_POINTER
        self.code = SampledCode(self.memory, Jits(self.memory))
        self._program = self.memory.program
        self._interpreter: Sampled | None = None
        self._records: dict[int, list[SourceRecord]] = {}
        self._changing = self.memory.watched([])
        self._marks, self._is_stale = b"", True
        self._bounds: dict[int, _Bounds] = {}
        self._copies: list[_Copy] = []
        self._kept: dict[int, list[tuple[int, int]]] = {}
        """Memory besides the stack that was copied of a thread last time, and may be worth it again."""
        self._renew_files()
        self._meet_interpreter()

    def close(self) -> None:
        self.memory.close()
        self._queue.close()

    def _renew_files(self) -> None:
        memory = self.memory
        folders = debug_folders(self._debug_dirs, [self._program.path] if self._program else [])
        self.symbols = Symbols(memory.files, folders)
        self._native = NativeRules(memory, memory.images, FileFrames(memory.files, self.symbols))
        self._walker = Walker(memory, self._native, self.code)
        self._native_at: dict[tuple[int, bool], int] = {}

    def _meet_interpreter(self) -> None:
        self._interpreter = self.code.jits.telling(Sampled)
        if self._interpreter is not None:
            self._interpreter.compare_anew()
            self._look_at_records()
            self._look_at_switch()

    def _look_at_switch(self) -> None:
        """A process that has ended cannot be asked any more."""
        interpreted, switched = self.code.jits.telling(Interpreted), self.code.jits.telling(Switched)
        self.python = interpreted.version_text if interpreted is not None else self.python
        is_on = switched.is_on() if switched is not None else None
        self.jit_was_on = is_on if is_on is not None else self.jit_was_on

    def _look_at_records(self) -> None:
        if self._interpreter is not None:
            self._records = self._interpreter.records(self.pid)
            self._changing = self.memory.watched(self._interpreter.changing())

    @property
    def is_python(self) -> bool:
        return self._interpreter is not None

    def renew(self) -> None:
        """Look whether the process has loaded files since, or runs another program: to be called now and then."""
        self.memory.renew()
        changed = self.memory.files_have_changed()
        self._records = {tid: records for tid, records in self._records.items() if records}
        if self._runs_another_program():
            return
        self._is_stale = True  # what other JITs than CPython's have done is seen now and then only
        if changed:
            self._renew_files()
        if changed and self._interpreter is None:
            self.code = SampledCode(self.memory, Jits(self.memory))
            self._renew_files()
            self._meet_interpreter()

    def _runs_another_program(self) -> bool:
        """Whether it does: then all is looked at anew."""
        before = self.memory
        if before.program == self._program and before.is_there():
            return False
        with suppress(
            NoSuchProcess, NotPermitted
        ):  # a program with other rights may be nobody's to look into
            self._start()
            before.close()
        return self.memory is not before

    def holders(self) -> set[int] | None:
        """The threads that hold an interpreter's lock now; None where nobody can tell."""
        records = self._interpreter.lock_holders() if self._interpreter is not None else None
        if records is None:
            return None
        return {tid for tid, own in self._records.items() if any(each.address in records for each in own)}

    # The stop

    def sample(self, tids: Sequence[int], since: float) -> list[tuple[int, Taken]]:
        """What each of these threads has on its stack now; without those that could not be stopped. `since`: when the
        look at them began, by time.perf_counter. Refused."""
        self._copies.clear()
        self._queue.begin(tids, since)
        self.memory.begin()
        if self._interpreter is not None and any(tid not in self._records for tid in tids):
            self._look_at_records()
            for tid in tids:
                self._records.setdefault(tid, [])
        self._stopper.with_each_stopped(tids, self._copy)
        if self._runs_another_program():
            return []
        return [(copy.tid, taken) for copy in self._copies if (taken := self._read(copy)) is not None]

    def _copy(self, tid: int, note: bytes, is_halted: bool) -> Callable[[], None]:
        """All that is read while the thread stands still; what is asked when it goes on again."""
        memory, interpreter = self.memory, self._interpreter
        (pointer,) = _word(note, self._sp_at)
        own = self._bounds.get(tid)
        if own is None or not own.start <= pointer < own.end:
            own = self._own_stack(tid, note, pointer)
        kept = memory.new_copy(range(own.start, own.end))
        start = pointer - self._arch.red_zone
        if own.start <= pointer < own.end:
            stack = (start, min(own.end - start, _LARGEST_STACK))
            marks = memory.keep_together([stack, *self._kept.get(tid, ())], self._changing)
        else:
            self._copy_alternate(start, own)
            marks = self._changing.now()
        if interpreter is not None:
            for record in self._records.get(tid, ()):
                interpreter.keep_thread(memory, record)

        def add() -> None:
            is_queued = self._queue.has_waited(tid)
            changing = self._changing if interpreter is not None else None
            self._copies.append(_Copy(tid, note, kept, self.programs, is_queued, is_halted, changing, marks))

        return add

    def _own_stack(self, tid: int, note: bytes, pointer: int) -> _Bounds:
        """The thread's own stack: below its own data, wherever its stack pointer is."""
        memory = self.memory
        if tid == self.pid:
            mapping = next((each for each in memory.mapped if each.path == "[stack]"), None)
            found = None if mapping is None else _Bounds(mapping.start - (1 << 23), mapping.end)
        else:
            of = None if self._thread_pointer_at is None else _word(note, self._thread_pointer_at)[0]
            mapping = memory.mapping_of(of) if of else None
            if mapping is None:
                memory.renew()
                mapping = memory.mapping_of(of or pointer)
            found = None if mapping is None else _Bounds(mapping.start, of & -8 if of else mapping.end)
        found = found or _Bounds(0, 0)
        self._bounds[tid] = found
        return found

    def _copy_alternate(self, start: int, own: _Bounds) -> None:
        """The stack that the thread has besides its own, as for signal handlers; and its own from the lowest address on
        that this one leads to."""
        memory = self.memory
        mapping = memory.mapping_of(start) or memory.mapping_of(start + _PAGE)
        if mapping is None:
            memory.renew()
            mapping = memory.mapping_of(start) or memory.mapping_of(start + _PAGE) or Mapping(0, 0, False, "")
        start = max(start, mapping.start)
        size = min(mapping.end - start, _LARGEST_ALTERNATE)
        copy = memory.keep_some(start, max(size, 0))
        words = [
            word
            for (word,) in Struct("<Q").iter_unpack(copy[: len(copy) & -8])
            if own.start <= word < own.end
        ]
        if words:
            start = min(words) - self._arch.red_zone
            memory.keep_some(start, min(own.end - start, _LARGEST_STACK))

    # Afterwards

    def _read(self, copy: _Copy) -> Taken | None:
        """The stack in a copy; None, if it cannot be read: the process runs another program now, or has ended, or code
        has come or gone before it was read what that code is, so that it may be the name of other code."""
        tid, programs, live_reads = copy.tid, self.programs, self.memory.live_reads
        if copy.programs != programs:
            return None
        self._kept[tid] = copy.memory.worth_again()
        self.memory.show(copy.memory)
        has_changed = self._is_stale or copy.marks != self._marks
        if has_changed:
            self._compare_anew(copy)
        self._walker.memory_has_changed(has_changed)
        registers = registers_of(copy.note, self._arch).values
        walked = self._walker.walk(registers)
        if walked.reason:  # it may lead into what was mapped since
            self.renew()
            if self.programs != programs:
                return None
            self.code.compare_anew()
            self._walker.memory_has_changed(True)
            walked = self._walker.walk(registers)
            if walked.reason and self.memory.has_ended:
                return None
        if not walked.reason:
            bounds = self._bounds[tid]
            outermost = walked.frames[-1].sp + _BEYOND
            if bounds.start <= outermost < bounds.end:
                self._bounds[tid] = bounds._replace(end=outermost)
        runs = self._runs(tid)
        places, is_unnamed = self._merged(walked.frames, runs)
        if self.memory.live_reads != live_reads and not copy.is_current():
            self._is_stale = True
            return None
        is_queued = (
            copy.is_queued and not copy.is_halted and self._is_in_call(registers[self._arch.program_counter])
        )
        return Taken(tuple(places), walked.reason, is_unnamed, is_queued, copy.is_halted)

    def _is_in_call(self, pc: int) -> bool:
        """Whether the instruction before is a system call: one that was preempted elsewhere was computing there."""
        instruction = self._arch.linux.calls.instruction
        return self.memory.now(pc - len(instruction), len(instruction)) == instruction

    def _compare_anew(self, copy: _Copy) -> None:
        """Code may have come or gone since what is known was found."""
        self._is_stale, self._marks = False, copy.marks
        self.code.compare_anew()
        if self._interpreter is None:
            return
        self._interpreter.compare_anew()
        self._changing = self.memory.watched(self._interpreter.changing())
        self._look_at_switch()
        if not self._records.get(copy.tid):
            self._records.pop(copy.tid, None)  # the interpreter may know it now

    def _runs(self, tid: int) -> list[SourceRun]:
        if self._interpreter is None:
            return []
        found: list[SourceRun] = []
        for record in self._records.get(tid, ()):
            runs = self._interpreter.runs(record)
            if runs is None:  # the record is another thread's now
                self._records.pop(tid, None)
                return []
            found += runs
        return found

    # One stack of all frames

    def _merged(self, frames: Sequence[RawFrame], runs: Sequence[SourceRun]) -> tuple[list[int], bool]:
        """The places of all frames, outermost first; and whether it has JIT code that nobody knows."""
        pointers = [frame.sp for frame in frames]
        by_loop: dict[int, list[SourceFrame]] = {}
        for run in runs:
            index = bisect_right(pointers, run.marker) - 1
            if run.marker and index >= 0:
                by_loop.setdefault(index, []).extend(run.frames)
        places: list[int] = []
        is_unnamed = False
        waiting: list[SourceFrame] = []
        """Python frames, innermost first, that JIT code further in may run."""
        for index in range(len(frames) - 1, -1, -1):
            frame = frames[index]
            jit = self.code.place_at(frame.pc, frame.at_pc)
            if jit is None and not waiting:
                places.append(self._native_place(frame))
            elif jit is None:
                if self.code.is_gate(frame.pc):
                    continue
                places += map(self._python_place, reversed(waiting))
                waiting = []
                places.append(self._native_place(frame))
            elif not jit.is_gate:
                own, is_known = self._jit_places(jit, frame, waiting)
                places += own
                is_unnamed = is_unnamed or not is_known
                waiting = []
            if index in by_loop:
                waiting = by_loop[index]
        places += map(self._python_place, reversed(waiting))
        return places, is_unnamed

    def _jit_places(
        self, jit: JitPlace, frame: RawFrame, waiting: Sequence[SourceFrame]
    ) -> tuple[list[int], bool]:
        """Those of the Python frames `waiting`, innermost first, of which JIT code runs the innermost; and whether it
        is known what that is."""
        position = jit.position
        if position is None:  # of another JIT
            outer = list(map(self._python_place, reversed(waiting)))
            is_known = jit.name != UNKNOWN_NAME
            name = jit.name if is_known else ""
            return [*outer, self._index(Place(PlaceKind.JIT, name, jit.file, jit.line))], is_known
        if not waiting:
            name = position.function or position.trace or ""
            return [self._index(Place(PlaceKind.JIT, name, position.file, position.line))], bool(name)
        count = _frames_in_trace(position, waiting)
        outer = list(map(self._python_place, reversed(waiting[count:])))
        inlined = [self._index(_of_source(each, PlaceKind.JIT)) for each in reversed(waiting[1:count])]
        return [*outer, *inlined, self._innermost(position, frame, waiting[0])], True

    def _innermost(self, position: Position, frame: RawFrame, source: SourceFrame) -> int:
        """Between calls the interpreter's frame may not say the line that JIT code is at; the code itself does."""
        place = _of_source(source, PlaceKind.JIT)
        is_same = (position.function, position.file) == (source.function, source.file)
        if frame.at_pc and is_same and position.line is not None:
            place = place._replace(line=position.line)
        return self._index(place)

    def _python_place(self, source: SourceFrame) -> int:
        key = (source.function, source.file, source.line)
        found = self._python_at.get(key)
        if found is None:
            found = self._python_at[key] = self._index(_of_source(source, PlaceKind.PYTHON))
        return found

    def _native_place(self, frame: RawFrame) -> int:
        key = frame.pc, frame.at_pc
        found = self._native_at.get(key)
        if found is None:
            address = frame.pc if frame.at_pc else frame.pc - 1
            mapping = self.memory.mapping_of(address)
            file = self.memory.files.at(address)
            start = None if self._c_lines else self._native.function_start(address)
            address = address if start is None else start
            path = mapping.path if mapping is not None else None
            place = Place(PlaceKind.NATIVE, "", path, None, file, address - (file.bias if file else 0))
            found = self._native_at[key] = self._index(place)
        return found

    def mark(self, text: str) -> int:
        """The index of the place that says this of a thread."""
        return self._index(Place(PlaceKind.MARK, text, None, None))

    def _index(self, place: Place) -> int:
        found = self._indices.get(place)
        if found is None:
            found = self._indices[place] = len(self.places)
            self.places.append(place)
        return found

    # Names of native code

    def named(self, place: Place) -> list[Named]:
        """What runs at a native place, the outermost first: one function, and where lines of C are wanted, those that
        the compiler has inlined there."""
        if place.function:
            return [Named(place.function)]
        name = self.symbols.of_file(place.file).at(place.address) if place.file is not None else None
        own = Named(name.function) if name is not None else None
        located = self._lines_at(place)
        if located:
            inlined = [Named(each.function, each.file, each.line or None) for each in reversed(located)]
            return [inlined[0]._replace(function=own.function if own else inlined[0].function), *inlined[1:]]
        unnamed = Named(f"{basename(place.path or '?')}+{place.address:#x}", is_named=False)
        return [own or unnamed]

    def _lines_at(self, place: Place) -> "list[Location]":
        if not self._c_lines or place.file is None:
            return []
        file = place.file
        if id(file.headers) not in self._file_lines:
            from jitunwind.stacks.lines import FileLines  # only some want them

            self._file_lines[id(file.headers)] = FileLines(self.symbols.of_file(file))
        return self._file_lines[id(file.headers)].at(place.address)


def _frames_in_trace(position: Position, frames: Sequence[SourceFrame]) -> int:
    """How many of the Python frames, innermost first, JIT code runs: those up to the one that its trace was made for,
    if that is among the callers."""
    if position.function == position.trace or position.trace is None:
        return 1
    for index, frame in enumerate(frames[1 : _MOST_INLINED + 1], 1):
        if frame.function == position.trace:
            return index + 1
    return 1


_MOST_INLINED = 32
"""Frames above one that are looked at for the one into whose trace it is inlined."""


def _of_source(source: SourceFrame, kind: PlaceKind) -> Place:
    return Place(kind, source.function, source.file, source.line)
