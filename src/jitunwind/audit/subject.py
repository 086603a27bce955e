"""What an audit that runs nothing works on: a process, a core or a dump in, a `Dump` out.

A process stands still for as long as that takes, and goes on. `jitunwind audit` and `jitunwind dump` ask for it.
"""

from collections.abc import Callable
from pathlib import Path

from elftools.common.exceptions import ELFError

from jitunwind.audit.ptrace import Tracee
from jitunwind.audit.steppable import Steppable
from jitunwind.audit.waiting import JIT_OFF, is_off
from jitunwind.errors import (
    JitOff,
    JitunwindError,
    NoSuchProcess,
    NothingToAudit,
    NotPython,
    UnsupportedVersion,
)
from jitunwind.jits.cpython.discovery import read_layout
from jitunwind.jits.cpython.dump import Dump, Frames, load, take
from jitunwind.jits.cpython.regions import Regions
from jitunwind.memory import Memory
from jitunwind.memory.core import check_core, is_core, program_here
from jitunwind.memory.corefile import CoreFile
from jitunwind.memory.live import check_process, is_number
from jitunwind.memory.process import LiveProcess
from jitunwind.tables.sources import Published, shim_frames

Warn = Callable[[str], None]


def check_has_jit(pid: int) -> None:
    """NotPython, UnsupportedVersion, JitOff: where the process has no JIT code, and will have none. It runs on."""
    with LiveProcess(pid) as memory:
        if is_off(_regions(memory, f"process {pid}")):
            raise JitOff(f"process {pid} has no JIT code, and will have none: {JIT_OFF}")


def _regions(memory: Memory, what: str) -> Regions:
    """The JIT code in `memory`, which is of `what`. NotPython, UnsupportedVersion."""
    try:
        return Regions(memory, read_layout(memory))
    except NotPython as error:
        raise NotPython(f"{what} is no CPython: {error}", error.hint) from None
    except UnsupportedVersion as error:
        raise UnsupportedVersion(f"{what}: {error}", error.hint) from None


def dump_of(target: str, exe: Path | None, warn: Warn) -> Dump:
    """The JIT code of the process, the core or the dump that `target` names. `exe`: the program that left the core.

    NothingToAudit where there is none; JitunwindError of many kinds for what cannot be read.
    """
    path = Path(target)
    if exe is not None and not is_core(path):
        raise JitunwindError(f"{target} is no core, and needs no --exe", "leave --exe away")
    if is_number(target):
        check_process(int(target))
        check_has_jit(int(target))
        tracee = Tracee.attach(int(target))
        try:
            dump = dump_in(tracee.memory, warn, f"process {target}")
        finally:
            tracee.let_go()
    elif not path.exists():
        raise NoSuchProcess(
            f"{target} is neither a process number nor a file", "name a PID, a core or a dump"
        )
    elif is_core(path):
        check_core(path)
        with CoreFile(path, program_here(path, str(exe) if exe is not None else None)) as core:
            dump = dump_in(core, warn, target)
    else:
        dump = load(path)
    if not dump.codes:
        raise NothingToAudit(f"{target} has no JIT code")
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
    return dump_of_regions(_regions(memory, what), warn)


def dump_of_regions(regions: Regions, warn: Warn) -> Dump:
    """All JIT code that `regions` knows, and all frames there are of it."""
    memory = regions.memory
    published = Published(memory.architecture, memory)
    frames = published.encoded()
    if regions.entry_shim is not None:
        frames += _frames_of_shim(regions, warn)
    dump = take(regions, frames)
    for warning in (*regions.warnings, *published.warnings):
        warn(warning)
    return dump


def _frames_of_shim(regions: Regions, warn: Warn) -> list[Frames]:
    shim = regions.entry_shim
    assert shim is not None
    try:
        return [shim_frames(shim, regions.memory)]
    except (JitunwindError, ELFError, OSError, StopIteration) as error:
        warn(f"the shim's own unwind information: {error}")
        return []
