"""`jitunwind.stacks`: the stacks of a process or a core, without a debugger.

A live process stands still while its registers and stacks are copied (`snapshot`); then frames are walked (`walk`) and
named. A core goes the same way, without the stop.
"""

import os
from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, NamedTuple

from jitunwind.arch import Architecture
from jitunwind.errors import BadCore, CannotStop, NoSuchProcess, NoSuchThread
from jitunwind.jits import Code
from jitunwind.jits.known import Jits
from jitunwind.jits.optional import Interpreted, Kept, SourceThread, Switched
from jitunwind.memory.backing import BackingFiles
from jitunwind.memory.live import check_threads, command_line, executable, is_number, thread_states
from jitunwind.memory.stopping import cause_of_wait, check_can_stop, check_not_frozen, long_waiting
from jitunwind.stacks.debugfiles import debug_folders
from jitunwind.stacks.fileframes import FileFrames
from jitunwind.stacks.images import Images
from jitunwind.stacks.jitcode import JitFrames, is_known
from jitunwind.stacks.model import Frame, Stacks, Thread
from jitunwind.stacks.names import Names
from jitunwind.stacks.native import NativeRules
from jitunwind.stacks.pythonframes import interleaved
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
    if not str(target):
        raise BadCore("neither a process nor a core is named", "name a process number or a core file")
    if is_number(str(target)):
        return _of_process(int(str(target)), wanted)
    return _of_core(os.fspath(target), exe, wanted)


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
    if pid == os.getpid():
        raise CannotStop(
            f"process {pid} is this one, which cannot stop itself",
            f"ask from another process: jitunwind bt {pid}",
        )
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
        before = Jits(snapshot)
        kept = before.telling(Kept)
        snapshot.take(kept.keep if kept is not None else _nothing)
        if not snapshot.registers:
            check_can_stop(pid)
        missing = {tid: why + _cause(pid, tid, waiting) for tid, why in snapshot.missing.items()}
        names = snapshot.thread_names
        found = _read(snapshot, before.renewed(), program, wanted)
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
            stopped_seconds=snapshot.stopped_seconds,
        )


def _cause(pid: int, tid: int, waiting: Sequence[int]) -> str:
    return cause_of_wait(pid, tid) if tid in waiting else ""


def _check_thread(target: object, threads: Sequence[Thread], tids: Sequence[int], wanted: _Wanted) -> None:
    if not threads:
        known = ", ".join(map(str, tids))
        raise NoSuchThread(f"{target} has no thread {wanted.thread}", f"one of its own: {known}")


def _of_core(target: str, program: str | None, wanted: _Wanted) -> Stacks:
    from pathlib import Path  # with a process `bt` starts faster without these

    from jitunwind.memory.core import WITH_MEMORY, WITHOUT_MEMORY
    from jitunwind.stacks import cores

    path = Path(target)
    with cores.open_core(path, program) as memory:
        jits = Jits(memory)
        if not memory.has_stacks:
            jits.problem = BadCore(f"the core {WITHOUT_MEMORY}")
        memory.files.find_all()
        found = _read(memory, jits, memory.program, wanted)
        _check_thread(path, found.threads, sorted(memory.registers), wanted)
        if not memory.has_stacks:
            why = f"the core does not hold this stack; {WITH_MEMORY}"
            found = found._replace(threads=tuple(each._replace(reason=why) for each in found.threads))
        return found._replace(
            pid=memory.pid,
            core=str(path),
            command=memory.command,
            executable=memory.program,
            signal=memory.signal,
        )


def _nothing(snapshot: Snapshot) -> None:
    """Of a process without a JIT that needs anything."""


def _read(memory: "Snapshot | Core", jits: Jits, program: str | None, wanted: _Wanted) -> Stacks:
    """Walk and name all that is wanted, in a memory that stands still."""
    files, images = memory.files, Images(memory)
    symbols = _symbols(files, program, wanted)
    jit = JitFrames(jits, memory.is_unchanged if isinstance(memory, Snapshot) else None)
    walker = Walker(memory, NativeRules(memory, images, FileFrames(files, symbols)), jit)
    names = Names(images, symbols, _lines(files, symbols) if wanted.c_lines else None)
    tids = [tid for tid in memory.registers if wanted.thread in (None, tid)]
    walked = {tid: walker.walk(memory.registers[tid].values) for tid in tids}
    interpreted, switched = jits.telling(Interpreted), jits.telling(Switched)
    source: dict[int, SourceThread] = {}
    if interpreted is not None:
        pointers = {tid: [frame.sp for frame in found.frames] for tid, found in walked.items()}
        live = memory.pid if isinstance(memory, Snapshot) else 0
        source = interpreted.source_threads(pointers, live, wanted.python)
    threads = []
    for tid, found in walked.items():
        frames = _frames(found.frames, jit, names, memory.architecture, wanted.registers)
        of = source.get(tid, SourceThread(None, []))
        frames = interleaved(frames, of.runs) if of.runs else frames
        threads.append(Thread(tid, "", None, of.holds_lock, tuple(frames), found.reason))
    is_jit = any(is_known(frame) for each in threads for frame in each.frames)
    return Stacks(
        pid=0,
        core=None,
        command="",
        executable=None,
        python=interpreted.version_text if interpreted is not None else None,
        others=jits.name if interpreted is None and jits.has_code() else "",
        jit=switched.is_on() if switched is not None else None,
        jit_code=is_jit or jits.has_code(),
        no_code=jits.why_no_code(),
        threads=tuple(threads),
        tids=tuple(sorted(memory.registers)),
        warnings=tuple(dict.fromkeys([*jits.warnings, *files.warnings])),
        problem=str(jits.problem or ""),
        problem_kind=type(jits.problem).__name__ if jits.problem is not None else "",
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
    raw_frames: Sequence[RawFrame], jit: JitFrames, names: Names, arch: Architecture, with_registers: bool
) -> list[Frame]:
    frames: list[Frame] = []
    kept = arch.callee_saved if with_registers else ()
    shown = [(register, arch.register_names[register]) for register in kept]
    below: Code | None = None
    for raw in raw_frames:
        of_jit = jit.frame(raw, below)
        described, below = (names.frames(raw), None) if of_jit is None else ([of_jit[0]], of_jit[1])
        of = raw.registers
        values = {name: of[register] for register, name in shown if register in of}
        frames += [each._replace(sp=raw.sp, registers=values, exact=raw.is_exact) for each in described]
    return frames
