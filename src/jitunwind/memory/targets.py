"""What a person names to look at: the number of a process, or the path of a core or of another file.

In comes the argument, out comes a `Target`; `opened` gives the memory of a process or a core.
"""

import contextlib
import os
from collections.abc import Iterator
from enum import Enum, auto
from typing import TYPE_CHECKING, NamedTuple

from jitunwind.errors import BadCore, JitunwindError
from jitunwind.memory import Memory
from jitunwind.memory.live import check_process, command_line, is_number

if TYPE_CHECKING:  # with a process verbs start faster without it
    from pathlib import Path


class Kind(Enum):
    PROCESS = auto()
    CORE = auto()
    FILE = auto()
    """Another one: a dump, or none that is known."""


class Target(NamedTuple):
    """`text` as it was given; `exe` is the program that has left a core, where a person says so."""

    text: str
    kind: Kind
    exe: str | None = None

    @property
    def pid(self) -> int:
        return int(self.text)

    @property
    def path(self) -> "Path":
        from pathlib import Path

        return Path(self.text)

    def __str__(self) -> str:
        """For people: `process 12`, `core /tmp/core`."""
        return f"{self.kind_name} {self.text}"

    @property
    def kind_name(self) -> str:
        return "dump" if self.kind is Kind.FILE else self.kind.name.lower()


def target_of(text: str, exe: str | None = None, files: str = "a core file") -> Target:
    """The target that `text` names; `files`: what may be named besides a process, for the hint.

    BadCore for what is not there, and for an `exe` that is not; JitunwindError for an `exe` of another thing."""
    if is_number(text):
        if exe is not None:
            raise JitunwindError(
                "--exe is for cores: a live process says itself what it runs", "leave --exe away"
            )
        return Target(text, Kind.PROCESS)
    if not os.path.exists(text):
        raise BadCore(f"{text} is neither a process number nor a file", f"name a PID or {files}")
    from pathlib import Path

    from jitunwind.memory.core import is_core  # with a process `bt` starts faster without it

    path = Path(text)

    if exe is None:
        return Target(text, Kind.CORE if is_core(path) else Kind.FILE)
    if not is_core(path):
        raise JitunwindError(f"--exe is for cores, and {text} is none", "leave --exe away")
    if not os.path.isfile(exe):
        raise BadCore(f"--exe {exe}: there is no such file", "name the program that left the core")
    return Target(text, Kind.CORE, exe)


@contextlib.contextmanager
def opened(target: Target) -> Iterator[Memory]:
    """The memory of a process, which runs on meanwhile, or of a core. JitunwindError of many kinds: there is no such
    process, or it ends meanwhile, or that is no whole core."""
    if target.kind is Kind.PROCESS:
        from jitunwind.memory.process import LiveProcess

        check_process(target.pid)
        with LiveProcess(target.pid) as process:
            yield process
        return
    from jitunwind.memory.core import check_core, check_holds_stacks, program_here
    from jitunwind.memory.corefile import CoreFile

    check_core(target.path)
    check_holds_stacks(target.path)
    with CoreFile(target.path, program_here(target.path, target.exe)) as memory:
        yield memory


def command_of(target: Target) -> str:
    """The command line that started a process, or the one that left a core."""
    if target.kind is Kind.PROCESS:
        return command_line(target.pid)
    from jitunwind.memory.core import arguments_of

    return arguments_of(target.path)
