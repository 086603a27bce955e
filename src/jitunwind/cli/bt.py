"""`jitunwind bt`: the native stacks of a process or a core, JIT frames included."""

import os
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from jitunwind.cli import page
from jitunwind.cli.output import UNUSABLE, is_coloured, print_warning, progress
from jitunwind.cli.ownprocess import without_garbage_collection
from jitunwind.cli.page import Paint
from jitunwind.cli.terminal import columns_of_stdout, echo, plain, style
from jitunwind.errors import JitunwindError, NoSuchThread, NotPython
from jitunwind.memory.live import is_number
from jitunwind.memory.targets import Kind, Target, target_of

if TYPE_CHECKING:
    from jitunwind.arch import Architecture
    from jitunwind.gdbplugin.backtrace import Report

_JSON_KEYS = (
    *("pid", "core", "command", "executable", "python", "jit", "signal"),
    *("threads", "complete", "warnings"),
)


def show(
    target: tuple[str, ...],
    exe: str | None,
    thread: int | None,
    python: bool,
    python_only: bool,
    native_only: bool,
    as_json: bool,
    watch: float | None,
    color: str,
    full_paths: bool,
    no_lines: bool,
    c_lines: bool,
    debug_dirs: tuple[str, ...],
    debuginfod: bool,
    gdb_path: str | None,
) -> int:
    """What `bt` does, with the values of its options: each is said there. The exit status."""
    wanted = {
        "thread": thread,
        "python": python or python_only,
        "registers": as_json,
        "c_lines": c_lines,
        "debug_dirs": debug_dirs,
        "debuginfod": debuginfod,
    }
    only = "python" if python_only else "native" if native_only else None
    look = _Look(wanted, exe, gdb_path, only, not no_lines, is_coloured(color, sys.stdout), full_paths)
    if watch is None and len(target) == 1:
        with progress(f"reading the stacks of {_named(target[0])}"):
            seen = look.at(target[0])
        echo(_as_json(seen) if as_json else look.page(seen), color=look.coloured)
        for warning in seen.stacks["warnings"]:
            print_warning(warning)
        return seen.status
    from jitunwind.cli import rounds  # one look starts faster without it

    return rounds.run(target, look, as_json, watch)


def _named(target: str) -> str:
    """What the user called `target`."""
    if is_number(target):
        return target
    from jitunwind.cli.verb import named  # with a process the command starts faster without it

    return named(target)


def _as_json(seen: "_Seen") -> str:
    import json

    return json.dumps(seen.document, indent=2)


class _Seen(NamedTuple):
    """The stacks of one process or core as data, and for how long it stood still. `status`: 0, or why not."""

    stacks: dict[str, Any]
    stopped_seconds: float
    status: int

    @property
    def document(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {key: self.stacks[key] for key in _JSON_KEYS}


class _Look(NamedTuple):
    """How to look, and what to show of it: frames of the kind `only` (None: all), files and lines or not."""

    wanted: dict[str, Any]
    exe: str | None
    gdb_path: str | None
    only: str | None
    with_lines: bool
    coloured: bool
    full_paths: bool

    def at(self, text: str) -> _Seen:
        """The stacks of the process or core that `text` names. JitunwindError, OSError."""
        target = target_of(text, self.exe)
        gdb = self.gdb_path
        found = _by_ourselves(target, self.wanted) if gdb is None else _by_gdb(gdb, target, self.wanted)
        stacks = found.stacks
        if stacks["core"]:
            stacks["core"] = _named(stacks["core"])
        problem = _problem(stacks, self.only)
        stacks["warnings"] += [problem] if problem else _notes(stacks, self.only)
        for thread in stacks["threads"]:
            thread["frames"] = self._shown(thread["frames"])
        is_well = stacks["complete"] and not problem
        return _Seen(stacks, found.stopped_seconds, 0 if is_well else UNUSABLE)

    def _shown(self, frames: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if self.only is not None:
            frames = [frame for frame in frames if frame["kind"] == self.only]
        for index, frame in enumerate(frames):
            frame["index"] = index
            if not self.with_lines:
                frame["file"] = frame["line"] = None
        return frames

    def page(self, seen: _Seen) -> str:
        """As text."""
        stacks = seen.stacks
        paint: Paint = style if self.coloured else plain
        form = page.Form(paint, columns_of_stdout(), self.full_paths)
        lines = [*page.lines(stacks, form), ""]
        for hint in self._hints(stacks):
            lines += [paint(line, dim=True) for line in page.wrapped(hint, form)]
        whole = "all stacks are whole" if stacks["complete"] else "NOT every stack is whole"
        stood = "" if stacks["core"] else f"; the process stood still for {_duration(seen.stopped_seconds)}"
        how: dict[str, Any] = {"dim": True} if stacks["complete"] else {"fg": "red", "bold": True}
        return "\n".join([*lines, paint(f"{whole}{stood}", **how)])

    def _hints(self, stacks: dict[str, Any]) -> list[str]:
        """What shows more."""
        hints = [] if self.only == "python" else [_missing_names(stacks)]
        return hints if self.only or self.wanted["python"] else [*hints, _missing_functions(stacks)]


def _architecture(target: Target) -> "Architecture | None":
    """That of a core; None for this machine's."""
    if target.kind is Kind.PROCESS:
        return None
    from jitunwind.memory.core import check_core  # with a process the command starts faster without it

    return check_core(target.path)


class _Found(NamedTuple):
    """The stacks as data, and for how long the process stood still."""

    stacks: dict[str, Any]
    stopped_seconds: float


def _by_ourselves(target: Target, wanted: dict[str, Any]) -> _Found:
    with without_garbage_collection():
        from jitunwind.stacks.data import as_data
        from jitunwind.stacks.library import stacks

        found = stacks(target.pid if target.kind is Kind.PROCESS else target.path, exe=target.exe, **wanted)
        return _Found(as_data(found), found.stopped_seconds)


def _by_gdb(gdb_path: str, target: Target, wanted: dict[str, Any]) -> _Found:
    from jitunwind.gdbplugin.backtrace import Wanted, of_core, of_process
    from jitunwind.gdbplugin.launch import find_gdb

    gdb = find_gdb(gdb_path, _architecture(target))
    asked = Wanted(**wanted)
    report = (
        of_process(gdb, target.pid, asked)
        if target.kind is Kind.PROCESS
        else of_core(gdb, target.path, target.exe, asked)
    )
    _check(target.text, report, asked.thread)
    stacks = report.stacks
    for each in stacks["threads"]:  # GDB does not say them
        each["reason"] = None
        for frame in each["frames"]:
            frame["exact"] = None
    stacks["warnings"] += [
        line.removeprefix("warning: ") for line in report.gdb_said.splitlines() if _MISMATCH in line
    ]
    return _Found(stacks, report.stopped_seconds)


def _check(target: str, report: "Report", thread: int | None) -> None:
    """NoSuchThread or JitunwindError, where there is nothing to print."""
    stacks = report.stacks
    if not stacks["tids"]:
        raise JitunwindError(f"GDB found no thread in {target}", report.gdb_said.strip().rpartition("\n")[2])
    if not stacks["threads"]:
        raise NoSuchThread(
            f"{target} has no thread {thread}", f"one of its own: {', '.join(map(str, stacks['tids']))}"
        )


def _problem(stacks: dict[str, Any], only: str | None) -> str | None:
    """What keeps the answer from being what was asked for, besides a stack that is not whole."""
    no_python = stacks["problem_kind"] == NotPython.__name__
    if stacks["python"] is None and only == "python":
        return f"there are no Python frames: {stacks['problem']}"
    if stacks["python"] is None and stacks["jit_code"]:
        return None  # another JIT's
    if no_python:
        native_only = f"no CPython here: {stacks['problem']}; these are native frames only"
        return None if only == "native" else native_only
    if stacks["python"] is None:
        return f"{stacks['problem']}: JIT frames, if there are any, are neither unwound nor named"
    if stacks["jit"] is False and not stacks["jit_code"] and only is None:
        return "no JIT code here: this Python's JIT is off (PYTHON_JIT=1 turns it on), or it has none"
    return None


def _notes(stacks: dict[str, Any], only: str | None) -> list[str]:
    """What is good to know, and no reason to fail."""
    if not stacks["jit_code"] and stacks["python"] is not None and only is None:
        return [f"no JIT code is known here: {stacks['no_code']}"]
    return []


_MISMATCH = "core file may not match"


def _duration(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms" if seconds < 1 else f"{seconds:.3f} s"


def _missing_functions(stacks: dict[str, Any]) -> str:
    """What shows the Python functions of threads that run no JIT code; empty where all do, or there is no CPython."""
    in_jit_code = [any(frame["kind"] == "jit" for frame in thread["frames"]) for thread in stacks["threads"]]
    return (
        ""
        if stacks["python"] is None or all(in_jit_code)
        else "Python functions that the interpreter runs: --python"
    )


def _missing_names(stacks: dict[str, Any]) -> str:
    """What brings the names of the interpreter's functions, where frames have none; else empty."""
    if stacks["problem_kind"] == NotPython.__name__:
        return ""
    from jitunwind.stacks.debugfiles import what_to_install

    for path in stacks["nameless"]:
        if path == stacks["executable"] or os.path.basename(path).startswith("libpython"):
            return f"names of C functions: {what_to_install(path.removesuffix(' (deleted)'))}, or --debug-dir DIR"
    return ""
