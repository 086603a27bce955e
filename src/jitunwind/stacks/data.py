"""Stacks as plain data: what `bt --json` prints (docs/using.md), and `bt` makes its page of."""

from typing import Any

from jitunwind.stacks.model import Death, Frame, Stacks, Thread


def as_data(stacks: Stacks) -> dict[str, Any]:
    """`bt --json`'s object, and what only the page needs: `tids`, `jit_code`, `no_code`,
    `problem`, `problem_kind`, `nameless`."""
    return {
        "pid": stacks.pid,
        "core": stacks.core,
        "command": stacks.command,
        "executable": stacks.executable,
        "python": stacks.python,
        "jit": stacks.jit,
        "signal": None if stacks.signal is None else _signal(stacks.signal),
        "threads": [_thread(thread) for thread in stacks.threads],
        "complete": stacks.complete,
        "warnings": list(stacks.warnings),
        "tids": list(stacks.tids),
        "jit_code": stacks.jit_code,
        "no_code": stacks.no_code,
        "others": stacks.others,
        "problem": stacks.problem,
        "problem_kind": stacks.problem_kind,
        "nameless": list(stacks.nameless),
    }


def _signal(of: Death) -> dict[str, Any]:
    address = None if of.address is None else f"{of.address:#x}"
    about = {"number": of.number, "tid": of.tid, "code": of.code, "address": address, "sender": of.sender}
    return {**about, "name": of.name}


def _thread(thread: Thread) -> dict[str, Any]:
    return {
        "tid": thread.tid,
        "name": thread.name,
        "state": thread.state,
        "gil": thread.gil,
        "frames": [_frame(index, frame) for index, frame in enumerate(thread.frames)],
        "reason": thread.reason,
    }


def _frame(index: int, frame: Frame) -> dict[str, Any]:
    region = frame.region
    return {
        "index": index,
        "pc": f"{frame.pc:#x}",
        "sp": f"{frame.sp:#x}",
        "kind": str(frame.kind),
        "name": frame.name,
        "function": frame.function,
        "trace": frame.trace,
        "inlined": frame.inlined,
        "file": frame.file,
        "line": frame.line,
        "region": None if region is None else {"start": f"{region.start:#x}", "size": region.size},
        "registers": {name: f"{value:#x}" for name, value in frame.registers.items()},
        "exact": frame.exact,
    }
