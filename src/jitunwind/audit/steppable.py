"""What the stepper needs of a process: `audit.ptrace` and `audit.remote` have one each."""

from collections.abc import Container
from typing import NamedTuple, Protocol

from jitunwind.memory.process import LoadedFiles


class Stop(NamedTuple):
    """Why a thread stands still: `signal` to be delivered when it goes on (0: none), `breakpoint` the address
    of the one it has met (0: none); `exec`: it runs another program now."""

    tid: int
    signal: int = 0
    breakpoint: int = 0
    exec: bool = False


class Steppable(Protocol):
    """A process and its threads, under control until `let_go`. Threads are known by their numbers."""

    started_here: bool
    ending: int | None
    """What waitpid(2) says of the process when it has ended."""

    @property
    def memory(self) -> LoadedFiles: ...

    @property
    def breakpoints(self) -> Container[int]: ...

    @property
    def is_alive(self) -> bool: ...

    def wait(self, seconds: float | None) -> Stop | None:
        """The next stop that matters, while all threads of `go_on` run; None when `seconds` have passed (some wait
        longer), or the process has ended."""

    def stop(self) -> bool:
        """Have every thread stand still; whether they do. What stops for another reason is kept for `wait`."""

    def go_on(self) -> None:
        """Let every thread run that has no stop waiting to be handed out."""

    def threads(self) -> list[int]:
        """The threads that stand still and can be looked at."""

    def step(self, tid: int) -> Stop | None:
        """Run one instruction of a stopped thread. None: it has ended. A stop with a signal has not run it."""

    def registers(self, tid: int) -> list[int]:
        """The registers of a stopped thread, by DWARF number, the program counter last."""

    def insert(self, address: int) -> None:
        """Put a breakpoint at `address`. UnreadableMemory where that cannot be."""

    def remove(self, address: int) -> None: ...

    def share_processor(self) -> None:
        """Run on one processor with the process, where that is faster. `let_go` gives it back its own."""

    def let_go(self) -> None:
        """Take the breakpoints back and let the process run as it did; one that was started here is ended."""
