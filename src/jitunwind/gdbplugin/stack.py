"""The stacks of all threads as data: what `jitunwind bt` has GDB do.

It goes from frame to frame with GDB's own unwinders and ours, and names JIT frames from the process itself:
no symbol file is made. `report()` gives the JSON of `bt --json`, without colours and without opinions.
"""

import os
from collections.abc import Iterator
from typing import Any

import gdb
import gdb.unwinder

from jitunwind.cpython.frames import Stretch, frame_at, stretches
from jitunwind.cpython.regions import ENTRY_NAME, JitCode, Regions
from jitunwind.gdbplugin.session import Session, is_general, name_of, session, watch
from jitunwind.gdbplugin.unwinder import JitUnwinder
from jitunwind.region import RegionKind

MOST_FRAMES = 100_000
_MASK = 0xFFFFFFFFFFFFFFFF

Frame = dict[str, Any]


def install() -> None:
    """Register the unwinder alone."""
    gdb.unwinder.register_unwinder(None, JitUnwinder(), replace=True)
    watch()


def report(only_thread: int | None, with_python: bool, with_registers: bool = True) -> dict[str, Any]:
    """The stacks of the selected inferior, as `bt --json` prints them (docs/using.md), and a little more.

    `with_registers`: read the registers of each frame, which takes as long as all the rest.
    """
    current = session()
    inferior = gdb.selected_inferior()
    threads = sorted((t for t in inferior.threads() if t.is_valid()), key=lambda t: t.num)
    listed, complete = [], True
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
        listed.append({"tid": tid, "name": thread.name or "", "frames": frames})
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
        "jit_on": regions.jit_is_on() if regions is not None else None,
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
        self._jit: dict[tuple[int, bool], _Described] = {}

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
            described.update(found)
            if found["kind"] == RegionKind.JIT and not is_exact:
                self._line_of_frame(frame, described)
        else:
            described.update(self._native_at(frame, pc, is_exact))
            if below_jit:
                self._name_shim(pc, described)
        values = {name: _register(frame, name) for name in self._registers}
        described["registers"] = {name: f"{value:#x}" for name, value in values.items() if value is not None}
        return described

    def _jit_at(self, pc: int, is_exact: bool) -> "_Described | None":
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

    def _line_of_frame(self, frame: gdb.Frame, described: Frame) -> None:
        """At a call the interpreter's frame is up to date: its instruction pointer says the line."""
        regions = self._regions
        if regions is None:
            return
        address = _register(frame, name_of(regions.stencils.frame_register(regions.layout), regions.arch))
        found = frame_at(regions.memory, regions.layout, regions.objects, address) if address else None
        if found is not None and found.line is not None:
            described.update(file=found.code.filename, line=found.line)

    def _name_shim(self, pc: int, described: Frame) -> None:
        """The caller of JIT code is 3.15's shim, which is the interpreter's own code."""
        regions = self._regions
        if regions is None or regions.layout.executor.shim_in_region:
            return
        shim = regions.entry_shim
        if shim is None or pc in shim:
            described.update(kind="shim", name=ENTRY_NAME)
        if shim is not None and pc in shim:
            described["region"] = {"start": f"{shim.start:#x}", "size": shim.size}

    def _native_at(self, frame: gdb.Frame, pc: int, is_exact: bool) -> "_Described":
        if frame.type() != gdb.NORMAL_FRAME:  # functions that the compiler has inlined share an address
            return _of_native_code(self._current, frame, pc)
        found = self._native.get((pc, is_exact))
        if found is None:
            found = self._native[pc, is_exact] = _of_native_code(self._current, frame, pc)
        return found


_Described = dict[str, Any]
"""Of a frame: kind, name, file, line and region."""


def _is_code(current: Session, address: int) -> bool:
    """Whether a return address can be `address`: behind a call, which may be the last of its mapping."""
    mapping = current.memory.mapping_of(address - 1)
    if mapping is None and not current.memory.knows_anonymous:
        return current.memory.can_read(address - 1)
    return mapping is not None and mapping.executable


def _of_jit_code(regions: Regions, jit_code: JitCode, pc: int, is_exact: bool) -> _Described:
    part = next(part for part in regions.parts(jit_code) if pc in part)
    file = line = None
    if part.kind is RegionKind.JIT:
        at = pc - jit_code.start - (0 if is_exact else 1)
        row = next((row for row in reversed(regions.lines(jit_code)) if row.offset <= at), None)
        if row is not None:
            file, line = row.filename, row.line
    region = {"start": f"{part.start:#x}", "size": part.size}
    return {"kind": str(part.kind), "name": part.name, "file": file, "line": line, "region": region}


def _of_native_code(current: Session, frame: gdb.Frame, pc: int) -> _Described:
    file = line = None
    try:
        sal = frame.find_sal()
    except gdb.error:
        sal = None
    if sal is not None and sal.symtab is not None and sal.line:
        file, line = sal.symtab.filename, sal.line
    name = frame.name() or _module_offset(current, pc)
    return {"kind": "native", "name": name, "file": file, "line": line, "region": None}


def _module_offset(current: Session, pc: int) -> str:
    """`python3.14+0x51aae` for code without a symbol: its file, and the offset from where that begins."""
    mapping = current.memory.mapping_of(pc)
    path = (mapping.path if mapping else "") or gdb.solib_name(pc) or ""
    base = current.memory.bases().get(path)
    return f"{pc:#x}" if base is None else f"{os.path.basename(path)}+{pc - base:#x}"


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
            "kind": "python",
            "name": frame.code.qualname,
            "file": frame.code.filename,
            "line": frame.line,
            "region": None,
            "registers": {},
        }
