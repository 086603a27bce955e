"""What an audit that runs nothing works on: a process, a core or a dump in, a `Dump` out.

A process stands still for as long as that takes, and goes on. `jitunwind audit` and `jitunwind dump` ask for it.
"""

from collections.abc import Callable

from jitunwind.audit.ptrace import Tracee
from jitunwind.audit.steppable import Steppable
from jitunwind.audit.waiting import why_off
from jitunwind.errors import (
    JitOff,
    NothingToAudit,
    NotPython,
    UnsupportedVersion,
)
from jitunwind.jits.dump import Dump, load, take
from jitunwind.jits.known import Jits
from jitunwind.memory import Memory
from jitunwind.memory.live import check_process
from jitunwind.memory.process import LiveProcess
from jitunwind.memory.targets import Kind, Target, opened
from jitunwind.rows import Unknown
from jitunwind.tables.sources import Published, gate_frames

Warn = Callable[[str], None]


def check_has_jit(pid: int) -> None:
    """NotPython, UnsupportedVersion, JitOff: where the process has no JIT code, and will have none. It runs on."""
    with LiveProcess(pid) as memory:
        jits = _jits(memory, f"process {pid}")
        if off := why_off(jits):
            raise JitOff(f"process {pid} has no JIT code, and will have none: {off}")


def _jits(memory: Memory, what: str) -> Jits:
    """The JITs in `memory`, which is of `what`. NotPython, UnsupportedVersion: where CPython's is not known, and no
    other has code."""
    jits = Jits(memory)
    problem = jits.problem
    if problem is None or jits.has_code():
        return jits
    if isinstance(problem, NotPython):
        raise NotPython(f"{what} is no CPython: {problem}; and no other JIT has code in it", problem.hint)
    raise UnsupportedVersion(f"{what}: {problem}", problem.hint)


def dump_of(target: Target, warn: Warn) -> Dump:
    """The JIT code of the process, the core or the dump that `target` names.

    NothingToAudit where there is none; JitunwindError of many kinds for what cannot be read.
    """
    if target.kind is Kind.PROCESS:
        check_process(target.pid)
        check_has_jit(target.pid)
        tracee = Tracee.attach(target.pid)
        try:
            dump = dump_in(tracee.memory, warn, str(target))
        finally:
            tracee.let_go()
    elif target.kind is Kind.CORE:
        with opened(target) as core:
            dump = dump_in(core, warn, target.text)
    else:
        dump = load(target.path)
    if not dump.codes:
        raise NothingToAudit(f"{target.text} has no JIT code")
    return dump


def dump_of_remote(tracee: Steppable, warn: Warn) -> Dump:
    """The JIT code of a process behind a stub, which goes on afterwards. NothingToAudit; JitunwindError."""
    try:
        dump = dump_in(tracee.memory, warn, "the program")
    finally:
        tracee.let_go()
    if not dump.codes:
        raise NothingToAudit("the program has no JIT code")
    return dump


def dump_in(memory: Memory, warn: Warn, what: str) -> Dump:
    """The JIT code of the process that `memory` is of, which stands still; messages call it `what`."""
    return dump_of_jits(_jits(memory, what), warn)


def dump_of_jits(jits: Jits, warn: Warn) -> Dump:
    """All JIT code that is known, and all frames there are of it."""
    memory = jits.memory
    published = Published(memory.architecture, memory)
    frames, gate_code = published.encoded(), b""
    for gate in jits.gates():
        found = gate_frames(gate, memory)
        if isinstance(found, Unknown):
            warn(found.reason)
        else:
            frames.append(found)
        gate_code = memory.checked_read(gate.start, gate.size)
    dump = take(jits.name, memory.architecture, jits, frames, gate_code)
    for warning in (*jits.warnings, *published.warnings):
        warn(warning)
    return dump
