"""`jitunwind bt`: the native stacks of a process or a core, JIT frames included."""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from jitunwind.cli import page
from jitunwind.cli.output import UNUSABLE, is_coloured, print_warning, progress
from jitunwind.cli.ownprocess import without_garbage_collection
from jitunwind.cli.page import Paint
from jitunwind.cli.terminal import echo, style
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
    target: str,
    exe: str | None,
    thread: int | None,
    python: bool,
    as_json: bool,
    color: str,
    full_paths: bool,
    c_lines: bool,
    debug_dirs: tuple[str, ...],
    debuginfod: bool,
    gdb_path: str | None,
) -> int:
    """What `bt` does, with the values of its options. The exit status."""
    subject = target_of(target, exe)
    wanted = {
        "thread": thread,
        "python": python,
        "registers": as_json,
        "c_lines": c_lines,
        "debug_dirs": debug_dirs,
        "debuginfod": debuginfod,
    }
    with progress(f"reading the stacks of {_named(target)}"):
        found = _by_ourselves(subject, wanted) if gdb_path is None else _by_gdb(gdb_path, subject, wanted)
    stacks = found.stacks
    if stacks["core"]:
        stacks["core"] = _named(stacks["core"])
    problem = _problem(stacks)
    stacks["warnings"] += [problem] if problem else _notes(stacks)
    if as_json:
        import json

        echo(json.dumps({key: stacks[key] for key in _JSON_KEYS}, indent=2))
    else:
        hints = [_missing_names(stacks), *([] if python else [_missing_functions(stacks)])]
        _print(stacks, found.stopped_seconds, is_coloured(color, sys.stdout), full_paths, hints)
    for warning in stacks["warnings"]:
        print_warning(warning)
    return UNUSABLE if problem or not stacks["complete"] else 0


def _named(target: str) -> str:
    """What the user called `target`."""
    if is_number(target):
        return target
    from jitunwind.cli.verb import named  # with a process the command starts faster without it

    return named(target)


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


def _problem(stacks: dict[str, Any]) -> str | None:
    """What keeps the answer from being what was asked for, besides a stack that is not whole."""
    if stacks["python"] is None and stacks["jit_code"]:
        return None  # another JIT's
    if stacks["problem_kind"] == NotPython.__name__:
        return f"no CPython here: {stacks['problem']}; these are native frames only"
    if stacks["python"] is None:
        return f"{stacks['problem']}: JIT frames, if there are any, are neither unwound nor named"
    if stacks["jit"] is False and not stacks["jit_code"]:
        return "no JIT code here: this Python's JIT is off (PYTHON_JIT=1 turns it on), or it has none"
    return None


def _notes(stacks: dict[str, Any]) -> list[str]:
    """What is good to know, and no reason to fail."""
    if not stacks["jit_code"] and stacks["python"] is not None:
        return [f"no JIT code is known here: {stacks['no_code']}"]
    return []


_MISMATCH = "core file may not match"


def _print(
    stacks: dict[str, Any], stopped_seconds: float, coloured: bool, full_paths: bool, hints: Sequence[str]
) -> None:
    paint: Paint = style if coloured else _plain
    form = page.Form(paint, _width(), full_paths)
    lines = [*page.lines(stacks, form), ""]
    lines += [paint(line, dim=True) for hint in hints for line in page.wrapped(hint, form)]
    whole = "all stacks are whole" if stacks["complete"] else "NOT every stack is whole"
    stood = f"; the process stood still for {_duration(stopped_seconds)}" if not stacks["core"] else ""
    how: dict[str, Any] = {"dim": True} if stacks["complete"] else {"fg": "red", "bold": True}
    echo("\n".join([*lines, paint(f"{whole}{stood}", **how)]), color=coloured)


def _width() -> int | None:
    """That of the terminal, in columns; None where stdout is none."""
    if not sys.stdout.isatty():
        return None
    import shutil

    return shutil.get_terminal_size().columns


def _duration(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms" if seconds < 1 else f"{seconds:.3f} s"


def _plain(text: str, **style: Any) -> str:
    return text


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
            return f"names of C functions: {what_to_install(path)}, or --debug-dir DIR"
    return ""
