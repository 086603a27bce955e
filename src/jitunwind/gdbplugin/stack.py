"""The stacks of all threads as data: what `jitunwind bt` has GDB do.

It goes from frame to frame with GDB's own unwinders and ours, and names JIT frames from the process itself:
no symbol file is made. `report()` gives the JSON of `bt --json`, without colours and without opinions.
"""

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import gdb
import gdb.unwinder

from jitunwind.gdbplugin.session import Session, is_general, name_of, session, watch
from jitunwind.gdbplugin.unwinder import JitUnwinder
from jitunwind.jits.cpython.frames import Stretch, frame_at, gil_holders, nearest, stretches
from jitunwind.jits.cpython.objects import CodeObject
from jitunwind.jits.cpython.regions import ENTRY_NAME, JitCode, Regions
from jitunwind.region import RegionKind

MOST_FRAMES = 100_000
_MASK = 0xFFFFFFFFFFFFFFFF

Frame = dict[str, Any]


def install() -> None:
    """Register the unwinder alone."""
    gdb.unwinder.register_unwinder(None, JitUnwinder(), replace=True)
    watch()


def report(only_thread: int | None, with_python: bool, with_registers: bool = True) -> dict[str, Any]:
    """The stacks of the selected inferior, as `bt --json` prints them (docs/using.md), and what `backtrace` makes that
    of: each frame without a symbol has `unnamed`, its file and the offset of what it executes there.

    `with_registers`: read the registers of each frame, which takes as long as all the rest.
    """
    current = session()
    inferior = gdb.selected_inferior()
    threads = sorted((t for t in inferior.threads() if t.is_valid()), key=lambda t: t.num)
    listed, complete = [], True
    holders = gil_holders(current.memory, current.layout) if current.layout else None
    stacks = _Stacks(current, with_registers)
    for thread in threads:
        tid = thread.ptid[1] or thread.ptid[0]
        if only_thread is not None and tid != only_thread:
            continue
        thread.switch()
        frames, whole = stacks.of_selected_thread()
        complete = complete and whole
        if with_python:
            frames = _interleave(current, frames, tid)
        for index, frame in enumerate(frames):
            frame["index"] = index
        holds = None if holders is None else tid in holders
        listed.append({"tid": tid, "name": thread.name or "", "state": None, "gil": holds, "frames": frames})
    regions = current.regions()
    warnings = [f"unknown, {count} times: {what}" for what, count in current.counts.items()]
    warnings += regions.warnings if regions is not None else []
    return {
        "pid": inferior.pid,
        "core": current.memory.core_file,
        "python": current.layout.version_text if current.layout else None,
        "threads": listed,
        "complete": complete and bool(listed),
        "warnings": warnings,
        "problem": current.problem,
        "problem_kind": current.problem_kind,
        "jit": regions.jit_is_on() if regions is not None else None,
        "jit_code": regions is not None and (_any_jit(listed) or bool(regions.starts)),
        "tids": [thread.ptid[1] or thread.ptid[0] for thread in threads],
    }


def _any_jit(threads: list[dict[str, Any]]) -> bool:
    return any(frame["kind"] in ("jit", "shim") for thread in threads for frame in thread["frames"])


class _Stacks:
    """The frames of a process that stands still. Deep stacks come to the same code again and again: what is true
    of an address is found out once."""

    def __init__(self, current: Session, with_registers: bool) -> None:
        self._current = current
        self._regions = current.regions()
        arch = current.memory.architecture
        self._stack_pointer = name_of(arch.stack_pointer, arch)
        kept = arch.callee_saved if with_registers else ()
        self._registers = [name_of(register, arch) for register in kept if is_general(register, arch)]
        self._is_code: dict[int, bool] = {}
        self._native: dict[tuple[int, bool], _Described] = {}
        self._jit: dict[tuple[int, bool], _InJit] = {}

    def of_selected_thread(self) -> tuple[list[Frame], bool]:
        """The frames of the selected thread, and whether the last one is the outermost there is."""
        count = self._current.count
        frames: list[Frame] = []
        frame = gdb.newest_frame()
        below_jit, is_exact = False, True
        while frame is not None and len(frames) < MOST_FRAMES:
            pc = frame.pc() & _MASK
            if frames and not self._can_be_returned_to(pc):  # GDB guesses, where it has no rules
                count(f"the caller of {frames[-1]['pc']} is not known: GDB says {pc:#x}, no code")
                return frames, False
            described = self._describe(frame, pc, below_jit, is_exact)
            below_jit = described["kind"] == "jit"
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

    def _describe(self, frame: gdb.Frame, pc: int, below_jit: bool, is_exact: bool) -> Frame:
        """`is_exact`: the frame is at `pc`, rather than at the call before it."""
        sp = _register(frame, self._stack_pointer) or 0
        described: Frame = {"index": 0, "pc": f"{pc:#x}", "sp": f"{sp:#x}"}
        found = self._jit_at(pc, is_exact)
        if found is not None:
            described.update(found.described)
            if found.described["kind"] == RegionKind.JIT:
                self._function_of(frame, found, described, is_exact)
        else:
            described.update(self._native_at(frame, pc, is_exact))
            if below_jit:
                self._name_shim(pc, described)
        values = {name: _register(frame, name) for name in self._registers}
        described["registers"] = {name: f"{value:#x}" for name, value in values.items() if value is not None}
        return described

    def _jit_at(self, pc: int, is_exact: bool) -> "_InJit | None":
        """What is known of JIT code at `pc`; None, if there is none."""
        regions = self._regions
        if regions is None or not regions.meets(pc):
            return None
        found = self._jit.get((pc, is_exact))
        if found is None:
            jit_code = regions.find(pc)
            if jit_code is None:
                return None
            found = self._jit[pc, is_exact] = _of_jit_code(regions, jit_code, pc, is_exact)
        return found

    def _function_of(self, frame: gdb.Frame, found: "_InJit", described: Frame, is_exact: bool) -> None:
        """Which function runs in JIT code, and where. At a call the interpreter's frame is up to date: its instruction
        pointer says the line."""
        regions = self._regions
        if regions is None:
            return
        code = found.runs
        read = regions.memory, regions.layout, regions.objects
        address = (
            _register(frame, name_of(regions.layout.record.frame_registers[regions.arch.name], regions.arch))
            or 0
        )
        if not is_exact and address:
            python = frame_at(*read, address)
            if python is not None and python.line is not None:
                code = python.code
                described.update(function=code.qualname, file=code.filename, line=python.line)
        if code is not None and found.owner is not None and not _same(code, found.owner):
            described["inlined"] = any(_same(caller, found.owner) for caller in nearest(*read, address))

    def _name_shim(self, pc: int, described: Frame) -> None:
        """The caller of JIT code is 3.15's shim, which is the interpreter's own code."""
        regions = self._regions
        if regions is None or regions.layout.executor.shim_in_region:
            return
        shim = regions.entry_shim
        if shim is None or pc in shim:
            described.update(kind="shim", name=ENTRY_NAME)
            described.pop("unnamed", None)
        if shim is not None and pc in shim:
            described["region"] = {"start": f"{shim.start:#x}", "size": shim.size}

    def _native_at(self, frame: gdb.Frame, pc: int, is_exact: bool) -> "_Described":
        if frame.type() != gdb.NORMAL_FRAME:  # functions that the compiler has inlined share an address
            return _of_native_code(self._current, frame, pc)
        found = self._native.get((pc, is_exact))
        if found is None:
            found = self._native[pc, is_exact] = _of_native_code(self._current, frame, pc)
            if frame.name() is None:
                found["unnamed"] = _place_in_file(self._current, pc, pc if is_exact else pc - 1)
        return found


_Described = dict[str, Any]
"""Of a frame: kind, name, function, trace, inlined, file, line and region."""


class _InJit(NamedTuple):
    """What is known of an address in JIT code; the code object that the trace was made for, and the one that runs
    there."""

    described: _Described
    owner: CodeObject | None
    runs: CodeObject | None


def _described(kind: str, name: str, **known: Any) -> _Described:
    nothing = {"function": None, "trace": None, "inlined": False, "file": None, "line": None, "region": None}
    return {"kind": kind, "name": name, **nothing, **known}


def _same(one: CodeObject, other: CodeObject) -> bool:
    """Whether both are of the same function, to a reader."""
    return (one.qualname, one.filename) == (other.qualname, other.filename)


def _is_code(current: Session, address: int) -> bool:
    """Whether a return address can be `address`: behind a call, which may be the last of its mapping."""
    mapping = current.memory.mapping_of(address - 1)
    if mapping is None and not current.memory.knows_anonymous:
        return current.memory.can_read(address - 1)
    return mapping is not None and mapping.executable


def _of_jit_code(regions: Regions, jit_code: JitCode, pc: int, is_exact: bool) -> _InJit:
    part = next(part for part in regions.parts(jit_code) if pc in part)
    region = {"start": f"{part.start:#x}", "size": part.size}
    described = _described(str(part.kind), part.name, region=region)
    if part.kind is not RegionKind.JIT:
        return _InJit(described, None, None)
    owner, runs = regions.code_object(jit_code), None
    if owner is not None:
        described.update(function=owner.qualname, trace=owner.qualname)
    place = regions.place(jit_code, pc if is_exact else pc - 1)
    if place is not None:
        runs, line = place
        described.update(function=runs.qualname, file=runs.filename, line=line)
    return _InJit(described, owner, runs)


def _of_native_code(current: Session, frame: gdb.Frame, pc: int) -> _Described:
    file = line = None
    try:
        sal = frame.find_sal()
    except gdb.error:
        sal = None
    if sal is not None and sal.symtab is not None and sal.line:
        file, line = sal.symtab.filename, sal.line
    name = frame.name() or _module_offset(current, pc)
    return _described("native", name, file=file, line=line)


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


def _interleave(current: Session, frames: list[Frame], tid: int) -> list[Frame]:
    """`frames` with the Python frames before the native frames that run them."""
    regions = current.regions()
    if regions is None:
        return frames
    before: dict[int, list[Frame]] = {}
    for stretch in stretches(current.memory, regions.layout, regions.objects, tid):
        index = _run_by(frames, stretch)
        if index is not None:
            before.setdefault(index, []).extend(_python_frames(stretch))
    merged: list[Frame] = []
    for index, frame in enumerate(frames):
        merged.extend(before.get(index, ()))
        merged.append(frame)
    return merged


def _run_by(frames: list[Frame], stretch: Stretch) -> int | None:
    """The index of the innermost frame of the run of the interpreter loop that holds `stretch`: the loop's
    own, on whose stack the marker lies, or that of the JIT code it has entered."""
    for index, frame in enumerate(frames):
        above = int(frames[index + 1]["sp"], 16) if index + 1 < len(frames) else _MASK
        if int(frame["sp"], 16) <= stretch.marker < above:
            while index > 0 and frames[index - 1]["kind"] in ("jit", "shim"):
                index -= 1
            return index
    return None


def _python_frames(stretch: Stretch) -> Iterator[Frame]:
    for frame in stretch.frames:
        yield {
            "index": 0,
            "pc": f"{frame.instruction:#x}",
            "sp": f"{frame.address:#x}",
            **_described(
                "python",
                frame.code.qualname,
                function=frame.code.qualname,
                file=frame.code.filename,
                line=frame.line,
            ),
            "registers": {},
        }
