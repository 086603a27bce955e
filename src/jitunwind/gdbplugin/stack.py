"""The stacks of all threads as data: what `jitunwind bt` has GDB do.

It goes from frame to frame with GDB's own unwinders and ours, and names JIT frames from the process itself:
no symbol file is made. `report()` gives the JSON of `bt --json`, without colours and without opinions.
"""

import os
from collections.abc import Iterator
from typing import Any

import gdb
import gdb.unwinder

from jitunwind.gdbplugin.session import Session, is_general, name_of, session, watch
from jitunwind.gdbplugin.unwinder import JitUnwinder
from jitunwind.jits import Code
from jitunwind.jits.known import UNKNOWN_NAME
from jitunwind.jits.optional import EntersByCall, Interpreted, Positions, ReadRegister, SourceRun, Switched
from jitunwind.region import RegionKind

MOST_FRAMES = 100_000
_MASK = 0xFFFFFFFFFFFFFFFF

Frame = dict[str, Any]
_Described = dict[str, Any]
"""Of a frame: kind, name, function, trace, inlined, file, line and region."""


def install() -> None:
    """Register the unwinder alone."""
    gdb.unwinder.register_unwinder(None, JitUnwinder(), replace=True)
    watch()


def report(only_thread: int | None, with_python: bool, with_registers: bool = True) -> dict[str, Any]:
    """The stacks of the selected inferior, as `bt --json` prints them (docs/using.md), and what `backtrace` makes
    that of: each frame without a symbol has `unnamed`, its file and the offset of what it executes there.

    `with_registers`: read the registers of each frame, which takes as long as all the rest.
    """
    current = session()
    inferior = gdb.selected_inferior()
    threads = sorted((t for t in inferior.threads() if t.is_valid()), key=lambda t: t.num)
    listed, complete = [], True
    jits = current.jits()
    interpreted = jits.telling(Interpreted) if jits is not None else None
    switched = jits.telling(Switched) if jits is not None else None
    stacks = _Stacks(current, with_registers)
    for thread in threads:
        tid = thread.ptid[1] or thread.ptid[0]
        if only_thread is not None and tid != only_thread:
            continue
        thread.switch()
        frames, whole = stacks.of_selected_thread()
        complete = complete and whole
        listed.append({"tid": tid, "name": thread.name or "", "state": None, "gil": None, "frames": frames})
    if interpreted is not None:
        _add_python(current, interpreted, listed, with_python)
    for each in listed:
        for index, frame in enumerate(each["frames"]):
            frame["index"] = index
    warnings = [f"unknown, {count} times: {what}" for what, count in current.counts.items()]
    warnings += jits.warnings if jits is not None else []
    return {
        "pid": inferior.pid,
        "core": current.memory.core_file,
        "python": interpreted.version_text if interpreted is not None else None,
        "others": jits.name if jits is not None and interpreted is None and jits.has_code() else "",
        "threads": listed,
        "complete": complete and bool(listed),
        "warnings": warnings,
        "problem": current.problem,
        "problem_kind": current.problem_kind,
        "jit": switched.is_on() if switched is not None else None,
        "jit_code": jits is not None and (_any_jit(listed) or jits.has_code()),
        "no_code": jits.why_no_code() if jits is not None else "",
        "tids": [thread.ptid[1] or thread.ptid[0] for thread in threads],
    }


def _any_jit(threads: list[dict[str, Any]]) -> bool:
    return any(
        frame["kind"] in ("jit", "shim") and frame["name"] != UNKNOWN_NAME
        for thread in threads
        for frame in thread["frames"]
    )


class _Stacks:
    """The frames of a process that stands still. Deep stacks come to the same code again and again: what is true
    of an address is found out once."""

    def __init__(self, current: Session, with_registers: bool) -> None:
        self._current = current
        self._jits = current.jits()
        self._arch = arch = current.memory.architecture
        self._stack_pointer = name_of(arch.stack_pointer, arch)
        kept = arch.callee_saved if with_registers else ()
        self._registers = [name_of(register, arch) for register in kept if is_general(register, arch)]
        self._is_code: dict[int, bool] = {}
        self._native: dict[tuple[int, bool], _Described] = {}
        self._code: dict[tuple[int, bool], Code | None] = {}

    def of_selected_thread(self) -> tuple[list[Frame], bool]:
        """The frames of the selected thread, and whether the last one is the outermost there is."""
        count = self._current.count
        frames: list[Frame] = []
        frame = gdb.newest_frame()
        below: Code | None = None
        is_exact = True
        while frame is not None and len(frames) < MOST_FRAMES:
            pc = frame.pc() & _MASK
            if frames and not self._can_be_returned_to(pc):  # GDB guesses, where it has no rules
                said = f"{pc:#x}, no code" if pc else "0: this part of the stack may not be stored"
                count(f"the caller of {frames[-1]['pc']} is not known: GDB says {said}")
                return frames, False
            described, below = self._describe(frame, pc, below, is_exact)
            # So is what a signal has interrupted, and what the compiler has inlined a frame into that is.
            kind = frame.type()
            is_exact = kind == gdb.SIGTRAMP_FRAME or (is_exact and kind == gdb.INLINE_FRAME)
            frames.append(described)
            try:
                older = frame.older()
            except gdb.error as error:
                count(f"GDB stops at {described['pc']}: {error}")
                return frames, False
            if older is None:
                reason = frame.unwind_stop_reason()
                if reason in (gdb.FRAME_UNWIND_NO_REASON, gdb.FRAME_UNWIND_OUTERMOST):
                    return frames, True
                count(f"GDB stops at {described['pc']}: {gdb.frame_stop_reason_string(reason)}")
                return frames, False
            frame = older
        count(f"there are more than {MOST_FRAMES} frames")
        return frames, False

    def _can_be_returned_to(self, address: int) -> bool:
        found = self._is_code.get(address)
        if found is None:
            found = self._is_code[address] = _is_code(self._current, address)
        return found

    def _describe(
        self, frame: gdb.Frame, pc: int, below: Code | None, is_exact: bool
    ) -> tuple[Frame, Code | None]:
        """The frame, and its code where that is a JIT's, but no gate. `is_exact`: the frame is at `pc`, rather than at
        the call before it. `below`: that of the frame that it has called."""
        sp = _register(frame, self._stack_pointer) or 0
        described: Frame = {"index": 0, "pc": f"{pc:#x}", "sp": f"{sp:#x}"}
        code = self._code_at(pc, is_exact)
        if code is not None:
            described.update(self._piece_at(code, pc if is_exact else pc - 1))
            if described["kind"] == RegionKind.JIT:
                described.update(self._position_of(frame, code, pc, is_exact))
            else:
                code = None
        else:
            described.update(self._native_at(frame, pc, is_exact))
            if below is not None:
                self._name_gate(pc, below, described)
        values = {name: _register(frame, name) for name in self._registers}
        described["registers"] = {name: f"{value:#x}" for name, value in values.items() if value is not None}
        return described, code

    def _code_at(self, pc: int, is_exact: bool) -> Code | None:
        """The JIT code of a frame at `pc`; None, if it is not in any."""
        jits = self._jits
        if jits is None or not jits.may_hold(pc):
            return None
        key = (pc, is_exact)
        if key not in self._code:
            found = jits.find(pc)
            if found is None and not is_exact:  # the call is the last of its code
                found = jits.find(pc - 1)
            self._code[key] = found
        return self._code[key]

    def _piece_at(self, code: Code, address: int) -> _Described:
        assert self._jits is not None
        pieces = self._jits.pieces(code)
        piece = next((piece for piece in pieces if address in piece), pieces[0])
        return _described(
            str(piece.kind), piece.name, region={"start": f"{piece.start:#x}", "size": piece.size}
        )

    def _position_of(self, frame: gdb.Frame, code: Code, pc: int, is_exact: bool) -> _Described:
        """Which function runs in JIT code, and where: as its JIT tells it, or else as GDB has read it."""
        assert self._jits is not None
        telling = self._jits.teller(code, Positions)
        if telling is not None:
            found = telling.position(code, pc, is_exact, self._reader(frame))
            return {
                "function": found.function,
                "trace": found.trace,
                "inlined": found.is_inlined,
                "file": found.file,
                "line": found.line,
            }
        file, line = _source_of(frame)
        if file is None:
            offset = (pc if is_exact else pc - 1) - code.start
            for at in self._jits.lines(code):
                if at.offset <= offset:
                    file, line = at.filename, at.line
        return {"file": file, "line": line}

    def _reader(self, frame: gdb.Frame) -> ReadRegister:
        return lambda register: _register(frame, name_of(register, self._arch))

    def _name_gate(self, pc: int, below: Code, described: Frame) -> None:
        """The caller of JIT code is a gate, if that is not C code's own convention: code of a file."""
        assert self._jits is not None
        entering, gate = self._jits.teller(below, EntersByCall), self._jits.gate_at(pc)
        name = entering.gate_name if entering is not None and not entering.gates() else None
        if gate is not None or name is not None:
            described.update(kind="shim", name=gate.name if gate is not None else name)
            described.pop("unnamed", None)
        if gate is not None:
            described["region"] = {"start": f"{gate.start:#x}", "size": gate.size}

    def _native_at(self, frame: gdb.Frame, pc: int, is_exact: bool) -> "_Described":
        if frame.type() != gdb.NORMAL_FRAME:  # functions that the compiler has inlined share an address
            return _of_native_code(self._current, frame, pc)
        found = self._native.get((pc, is_exact))
        if found is None:
            found = self._native[pc, is_exact] = _of_native_code(self._current, frame, pc)
            if frame.name() is None and found["kind"] == "native":
                found["unnamed"] = _place_in_file(self._current, pc, pc if is_exact else pc - 1)
        return found


def _described(kind: str, name: str, **known: Any) -> _Described:
    nothing = {"function": None, "trace": None, "inlined": False, "file": None, "line": None, "region": None}
    return {"kind": kind, "name": name, **nothing, **known}


def _is_code(current: Session, address: int) -> bool:
    """Whether a return address can be `address`: behind a call, which may be the last of its mapping."""
    mapping = current.memory.mapping_of(address - 1)
    if mapping is None and not current.memory.knows_anonymous:
        return current.memory.can_read(address - 1)
    return mapping is not None and mapping.executable


def _of_native_code(current: Session, frame: gdb.Frame, pc: int) -> _Described:
    file, line = _source_of(frame)
    jits, name = current.jits(), frame.name()
    unknown = jits.unknown_piece(pc) if jits is not None and name is None else None
    if unknown is not None:
        region = {"start": f"{unknown.start:#x}", "size": unknown.size}
        return _described(str(unknown.kind), unknown.name, region=region)
    return _described("native", name or _module_offset(current, pc), file=file, line=line)


def _source_of(frame: gdb.Frame) -> tuple[str | None, int | None]:
    """The file and line that GDB has for a frame."""
    try:
        sal = frame.find_sal()
    except gdb.error:
        sal = None
    if sal is None or sal.symtab is None or not sal.line:
        return None, None
    return sal.symtab.filename, sal.line


def _place_in_file(current: Session, pc: int, address: int) -> tuple[str, int] | None:
    """The path of the file whose code is at `pc`, and the offset of `address` from where that begins; None where the
    code is no file's."""
    mapping = current.memory.mapping_of(pc)
    path = (mapping.path if mapping else "") or gdb.solib_name(pc) or ""
    base = current.memory.bases().get(path)
    return None if base is None else (path, address - base)


def _module_offset(current: Session, pc: int) -> str:
    """`python3.14+0x51aae` for code without a symbol: its file, and the offset from where that begins."""
    place = _place_in_file(current, pc, pc)
    return f"{pc:#x}" if place is None else f"{os.path.basename(place[0])}+{place[1]:#x}"


def _register(frame: gdb.Frame, name: str) -> int | None:
    """A register's value in `frame`; None, where it is not to be had."""
    try:
        return int(frame.read_register(name)) & _MASK
    except (gdb.error, ValueError):
        return None


def _add_python(
    current: Session, interpreted: Interpreted, threads: list[dict[str, Any]], with_frames: bool
) -> None:
    """What the interpreter says of the threads: who holds its lock, and their Python frames."""
    live = 0 if current.memory.core_file else gdb.selected_inferior().pid
    stacks = {each["tid"]: [int(frame["sp"], 16) for frame in each["frames"]] for each in threads}
    found = interpreted.source_threads(stacks, live, with_frames)
    for each in threads:
        own = found[each["tid"]]
        each["gil"] = own.holds_lock
        each["frames"] = _interleave(each["frames"], own.runs)


def _interleave(frames: list[Frame], runs: list[SourceRun]) -> list[Frame]:
    """`frames` with the Python frames before the native frames that run them."""
    before: dict[int, list[Frame]] = {}
    for run in runs:
        index = _run_by(frames, run)
        if index is not None:
            before.setdefault(index, []).extend(_python_frames(run))
    merged: list[Frame] = []
    for index, frame in enumerate(frames):
        merged.extend(before.get(index, ()))
        merged.append(frame)
    return merged


def _run_by(frames: list[Frame], run: SourceRun) -> int | None:
    """The index of the innermost frame of the run of the interpreter loop that holds `run`: the loop's
    own, on whose stack the marker lies, or that of the JIT code it has entered."""
    for index, frame in enumerate(frames):
        above = int(frames[index + 1]["sp"], 16) if index + 1 < len(frames) else _MASK
        if int(frame["sp"], 16) <= run.marker < above:
            while index > 0 and frames[index - 1]["kind"] in ("jit", "shim"):
                index -= 1
            return index
    return None


def _python_frames(run: SourceRun) -> Iterator[Frame]:
    for frame in run.frames:
        told = _described("python", frame.function, function=frame.function, file=frame.file, line=frame.line)
        yield {
            "index": 0,
            "pc": f"{frame.instruction:#x}",
            "sp": f"{frame.address:#x}",
            **told,
            "registers": {},
        }
