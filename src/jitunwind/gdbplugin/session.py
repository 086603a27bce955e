"""What the plugin knows of each inferior: its JITs, their code now, and the tables recovered from it.

GDB's events say when to forget: nothing found before the process ran on is used unchecked afterwards.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gdb

from jitunwind.arch import Architecture
from jitunwind.arch.known import ARCHITECTURES, of_bfd_name
from jitunwind.gdbplugin.decoding import decoder_of
from jitunwind.gdbplugin.inferior import Inferior
from jitunwind.jits import Code
from jitunwind.jits.known import Jits
from jitunwind.recover.table import recover
from jitunwind.rows import UnwindTable

MOST_TABLES = 1 << 14


@dataclass
class Session:
    """One inferior."""

    memory: Inferior
    architecture: str
    unfit: str = ""
    """Why nothing can be known of it, if so."""
    _jits: Jits | None = None
    _stale: bool = True
    _tables: dict[tuple[int, bytes], UnwindTable] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    """What went wrong in unwinding, and how often: shown by `jitunwind bt` and `jit-rows`."""

    def ran(self) -> None:
        """The process has run, or somebody wrote to its memory."""
        self._stale = True
        self.memory.forget()

    def jits(self) -> Jits | None:
        """The JITs of the process now; None where nothing can be known of it."""
        if self.unfit:
            return None
        if self._stale:
            self._stale = False
            if self._jits is None:
                arch = self.memory.architecture
                self._jits = Jits(self.memory, lambda start: decoder_of(arch, start))
            elif not self._jits.is_current():
                self._jits = self._jits.renewed()
        return self._jits

    @property
    def problem(self) -> str:
        """Why CPython's JIT is not known, if it is not."""
        jits = self.jits()
        return self.unfit if jits is None else str(jits.problem or "")

    def is_without_cpython(self) -> bool:
        """Whether none was found when somebody last looked."""
        return bool(self.unfit) or (self._jits is not None and self._jits.problem is not None)

    @property
    def problem_kind(self) -> str:
        """The name of the error that says so."""
        jits = self.jits()
        return "" if jits is None or jits.problem is None else type(jits.problem).__name__

    def table(self, code: Code) -> UnwindTable:
        """The unwind table of JIT code, recovered once."""
        key = (code.start, code.data)
        table = self._tables.get(key)
        if table is None:
            if len(self._tables) >= MOST_TABLES:
                self._tables.clear()
            arch = self.memory.architecture
            decode = decoder_of(arch, code.start)
            table = (
                recover(arch, code.data, decode, dict(code.entries))
                if self._jits is None
                else self._jits.recovered(code, decode)
            )
            self._tables[key] = table
        return table

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1


_sessions: dict[int, Session] = {}


def session() -> Session:
    """That of the selected inferior."""
    inferior = gdb.selected_inferior()
    known = _sessions.get(inferior.num)
    if known is None:
        known = _sessions[inferior.num] = _open(inferior)
    return known


def _open(inferior: gdb.Inferior) -> Session:
    name, failed = "", ""
    try:
        name = inferior.architecture().name()
    except gdb.error as error:
        failed = f"GDB says: {error}"
    arch = of_bfd_name(name)
    opened = Session(Inferior(inferior, arch or next(iter(ARCHITECTURES.values()))), name, unfit=failed)
    if failed:
        return opened
    if arch is None:
        known = " and ".join(each.bfd_name for each in ARCHITECTURES.values())
        opened.unfit = f"its architecture is {name}; known are {known}"
    return opened


def is_general(register: int, arch: Architecture) -> bool:
    """Whether it is one of those of a word that GDB can calculate with; else it is a vector register's low word."""
    return register <= arch.program_counter


def name_of(register: int, arch: Architecture) -> str:
    """What GDB calls the register with that DWARF number; AArch64's d8 is a part of its v8."""
    name = arch.register_names[register]
    return name if is_general(register, arch) else f"v{name[1:]}"


def _ran(event: object) -> None:
    for each in _sessions.values():
        each.ran()


def _forget_failed(event: object) -> None:
    """Another file has come: a process that was no CPython may be one now."""
    for number, each in list(_sessions.items()):
        each.ran()
        if each.is_without_cpython():
            del _sessions[number]


def _forget(event: object) -> None:
    _sessions.clear()


def watch() -> None:
    """Follow GDB's events."""
    follow(
        cont=_ran,
        memory_changed=_ran,
        inferior_call=_ran,
        new_objfile=_forget_failed,
        clear_objfiles=_forget,
        exited=_forget,
        inferior_deleted=_forget,
        executable_changed=_forget,
    )


def follow(**handlers: Callable[[Any], None]) -> None:
    """Have GDB call `handlers` at the events they are named after, those that this GDB has; each once, even
    when the plugin is loaded a second time."""
    for name, handler in handlers.items():
        registry = getattr(gdb.events, name, None)
        if registry is not None and (name, handler) not in _followed:
            _followed.add((name, handler))
            registry.connect(handler)


_followed: set[tuple[str, Callable[[Any], None]]] = set()
