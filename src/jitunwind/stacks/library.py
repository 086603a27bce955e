"""`jitunwind.stacks`: the stacks of a process or a core, without a debugger.

A live process stands still while its registers and stacks are copied (`snapshot`); then frames are walked (`walk`) and
named. A core goes the same way, without the stop.
"""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from jitunwind.errors import BadCore, CannotStop, JitunwindError, NoSuchProcess, NoSuchThread
from jitunwind.jits.cpython.discovery import read_layout
from jitunwind.jits.cpython.keeping import keep_frames
from jitunwind.jits.cpython.layout import Layout
from jitunwind.memory import Memory
from jitunwind.memory.backing import BackingFiles
from jitunwind.memory.live import check_threads, command_line, executable, is_number, thread_states
from jitunwind.memory.stopping import cause_of_wait, check_can_stop, check_not_frozen, long_waiting
from jitunwind.stacks.debugfiles import debug_folders
from jitunwind.stacks.fileframes import FileFrames
from jitunwind.stacks.images import Images
from jitunwind.stacks.jitcode import CPythonCode
from jitunwind.stacks.model import Frame, FrameKind, Stacks, Thread
from jitunwind.stacks.names import Names
from jitunwind.stacks.native import NativeRules
from jitunwind.stacks.pythonframes import by_thread, interleaved
from jitunwind.stacks.seizing import living_thread
from jitunwind.stacks.snapshot import Snapshot
from jitunwind.stacks.symbols import Symbols
from jitunwind.stacks.walk import RawFrame, Walker

if TYPE_CHECKING:
    from jitunwind.stacks.cores import Core
    from jitunwind.stacks.lines import Lines


def stacks(
    target: int | str | PathLike[str],
    *,
    thread: int | None = None,
    python: bool = False,
    registers: bool = True,
    c_lines: bool = False,
    exe: str | None = None,
    debug_dirs: Sequence[str] = (),
    debuginfod: bool = False,
) -> Stacks:
    """The stacks of a live process (its number) or of a core (its path).

    `thread`: only the one with that kernel id. `python`: the interpreter's pure Python frames, too. `registers`: those
    of each frame. `c_lines`: lines of C functions, and the functions inlined there, as frames of their own. `exe`: the
    program that left a core. `debug_dirs`: where to look for debug files, before the usual places. `debuginfod`: fetch
    those that are not here from the servers that the environment names.

    A live process stands still for some milliseconds, and goes on whatever happens here. What cannot be read is said
    in a thread's `reason`, or in `warnings`.

    NoSuchProcess, NoSuchThread, NotPermitted, AlreadyTraced, CannotStop, BadCore, NoLineReader.
    """
    wanted = _Wanted(thread, python, registers, c_lines, tuple(debug_dirs), debuginfod)
    if isinstance(target, int):
        return _of_process(target, wanted)
    if is_number(str(target)):
        return _of_process(int(str(target)), wanted)
    return _of_core(Path(target), exe, wanted)


class _Wanted(NamedTuple):
    """What to report."""

    thread: int | None
    python: bool
    registers: bool
    c_lines: bool
    debug_dirs: tuple[str, ...]
    debuginfod: bool


_MOST_PROGRAMS = 5
"""That a process may run one after the other while it is looked at."""


def _of_process(pid: int, wanted: _Wanted) -> Stacks:
    for _ in range(_MOST_PROGRAMS):
        found = _of_program(pid, wanted)
        if found is not None:
            return found
    raise CannotStop(f"process {pid} has run one program after the other", "try again when it stays with one")


def _of_program(pid: int, wanted: _Wanted) -> Stacks | None:
    """None, if the process has run another program meanwhile."""
    check_threads(pid)
    check_not_frozen(pid)
    waiting = long_waiting(pid)
    states = thread_states(pid)
    with Snapshot(pid) as snapshot:
        command, program = command_line(snapshot.thread), executable(snapshot.thread)
        layout, problem = _layout_of(snapshot)

        def during(memory: Snapshot) -> None:
            if layout is not None:
                keep_frames(memory, memory, layout)

        snapshot.take(during)
        if not snapshot.registers:
            check_can_stop(pid)
        missing = {tid: why + _cause(pid, tid, waiting) for tid, why in snapshot.missing.items()}
        names = snapshot.thread_names
        found = _read(snapshot, layout, program, wanted)
        if not found.complete and not snapshot.is_there():
            if living_thread(pid) is None:
                raise NoSuchProcess(f"process {pid} has ended while its stacks were being read")
            return None
        threads = [
            each._replace(name=names.get(each.tid, ""), state=states.get(each.tid)) for each in found.threads
        ]
        threads += [
            Thread(tid, names.get(tid, ""), states.get(tid), None, (), why)
            for tid, why in missing.items()
            if wanted.thread in (None, tid)
        ]
        tids = sorted((*snapshot.registers, *missing))
        _check_thread(pid, threads, tids, wanted)
        return found._replace(
            pid=pid,
            command=command,
            executable=program,
            threads=tuple(sorted(threads, key=lambda each: each.tid)),
            tids=tuple(tids),
            problem=str(problem or ""),
            problem_kind=type(problem).__name__ if problem is not None else "",
            stopped_seconds=snapshot.stopped_seconds,
        )


def _cause(pid: int, tid: int, waiting: Sequence[int]) -> str:
    return cause_of_wait(pid, tid) if tid in waiting else ""


def _check_thread(target: object, threads: Sequence[Thread], tids: Sequence[int], wanted: _Wanted) -> None:
    if not threads:
        known = ", ".join(map(str, tids))
        raise NoSuchThread(f"{target} has no thread {wanted.thread}", f"one of its own: {known}")


def _of_core(path: Path, program: str | None, wanted: _Wanted) -> Stacks:
    from jitunwind.memory.core import WITHOUT_MEMORY
    from jitunwind.stacks import cores  # with a process `bt` starts faster without it

    with cores.open_core(path, program) as memory:
        layout, problem = _layout_of(memory)
        if not memory.has_stacks:
            layout, problem = None, BadCore(f"the core {WITHOUT_MEMORY}")
        memory.files.find_all()
        found = _read(memory, layout, memory.program, wanted)
        _check_thread(path, found.threads, sorted(memory.registers), wanted)
        return found._replace(
            pid=memory.pid,
            core=str(path),
            command=memory.command,
            executable=memory.program,
            signal=memory.signal,
            problem=str(problem or ""),
            problem_kind=type(problem).__name__ if problem is not None else "",
        )


def _layout_of(memory: Memory) -> tuple[Layout | None, JitunwindError | None]:
    """That of the CPython in `memory`; or why there is none."""
    try:
        return read_layout(memory), None
    except JitunwindError as error:
        return None, error


def _read(memory: "Snapshot | Core", layout: Layout | None, program: str | None, wanted: _Wanted) -> Stacks:
    """Walk and name all that is wanted, in a memory that stands still."""
    arch, registers, files = memory.architecture, memory.registers, memory.files
    images = Images(memory)
    unchanged = memory.is_unchanged if isinstance(memory, Snapshot) else None
    jit = CPythonCode(memory, layout, unchanged) if layout is not None else None
    symbols = _symbols(files, program, wanted)
    walker = Walker(memory, NativeRules(memory, images, FileFrames(files, symbols)), jit)
    names = Names(images, symbols, _lines(files, symbols) if wanted.c_lines else None)
    walked = {tid: walker.walk(of.values) for tid, of in registers.items() if wanted.thread in (None, tid)}
    live = memory.pid if isinstance(memory, Snapshot) else 0
    raw = {tid: found.frames for tid, found in walked.items()}
    python = by_thread(jit, memory, raw, live) if jit is not None else {}
    holders = jit.holders() if jit is not None else None
    threads = []
    for tid, found in walked.items():
        frames = _frames(
            found.frames, jit, names, arch.register_names, arch.callee_saved if wanted.registers else ()
        )
        states = python.get(tid, ())
        if wanted.python and jit is not None:
            for state in states:
                frames = interleaved(frames, list(jit.stretches(state)))
        gil = None if holders is None else any(state.address in holders for state in states)
        threads.append(Thread(tid, "", None, gil, tuple(frames), found.reason))
    is_jit = any(frame.kind in (FrameKind.JIT, FrameKind.SHIM) for each in threads for frame in each.frames)
    return Stacks(
        pid=0,
        core=None,
        command="",
        executable=None,
        python=jit.version if jit is not None else None,
        jit=jit.is_on() if jit is not None else None,
        jit_code=is_jit or (jit is not None and jit.has_code()),
        threads=tuple(threads),
        tids=tuple(sorted(registers)),
        warnings=tuple(dict.fromkeys([*(jit.warnings if jit is not None else ()), *files.warnings])),
        nameless=tuple(sorted(names.nameless)),
    )


def _lines(files: BackingFiles, symbols: Symbols) -> "Lines":
    from jitunwind.stacks.lines import Lines  # only some want them

    return Lines(files, symbols)


def _symbols(files: BackingFiles, program: str | None, wanted: _Wanted) -> Symbols:
    first = next((mapping.path for mapping in files.mappings if mapping.path.startswith("/")), "")
    folders = debug_folders(wanted.debug_dirs, dict.fromkeys(filter(None, (program, first))))
    servers: list[str] = []
    if wanted.debuginfod:
        from jitunwind.stacks import debuginfod  # only some want them

        servers = debuginfod.servers()
    return Symbols(files, folders, servers)


def _frames(
    raw_frames: Sequence[RawFrame],
    jit: CPythonCode | None,
    names: Names,
    register_names: Sequence[str],
    kept: Sequence[int],
) -> list[Frame]:
    frames: list[Frame] = []
    shown = [(register, register_names[register]) for register in kept]
    below_jit = False
    for raw in raw_frames:
        frame = jit.frame(raw, below_jit) if jit is not None else None
        described = names.frames(raw) if frame is None else [frame]
        below_jit = described[0].kind is FrameKind.JIT
        of = raw.registers
        values = {name: of[register] for register, name in shown if register in of}
        for each in described:
            frames.append(each._replace(sp=raw.sp, registers=values, exact=raw.is_exact))
    return frames
