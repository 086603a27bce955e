"""Publishing the JIT code of the CPython that this runs in, as it comes and goes.

The agent notes where code has come or is to go, and has `Follower.attend` called in a thread of its own soon
afterwards. The thread is there only while there is something to do.
"""

import _thread
import atexit
import os
import time
from itertools import islice

from jitunwind.agent.library import CODE_CAME, GDB, LIBGCC, LIBUNWIND, RegionStruct, agent
from jitunwind.arch.x86_64.effects import decode
from jitunwind.arch.x86_64.registers import X86_64
from jitunwind.cpython.layout import read_layout
from jitunwind.cpython.newcomers import Newcomers
from jitunwind.cpython.regions import JitCode, Regions
from jitunwind.dwarf.lines import Line
from jitunwind.errors import AgentFailed, JitunwindError
from jitunwind.memory.own import OwnProcess
from jitunwind.publishing.described import described
from jitunwind.recover.table import recover
from jitunwind.region import RegionKind

_CONSUMERS = GDB | LIBGCC | LIBUNWIND
_MOST_AT_ONCE = 64
_AT_ONCE_SECONDS = 0.02
"""After so much work what is ready is published, the rest later: new code waits for a tenth of a second at most."""


class Follower:
    """Follows the interpreter of one process; in the child of a fork it goes on."""

    def __init__(self) -> None:
        self._agent = agent()
        self._memory = OwnProcess()
        self._layout = read_layout(self._memory)
        self._lock = _thread.allocate_lock()
        """Held while something is looked at and published."""
        self._attending = 0
        """The thread that attends, while it does."""
        self._waiting: dict[int, int] = {}
        """Code that has come and has not been looked at: start to size, the oldest first."""
        self._parents: dict[int, int] = {}
        self.problems: dict[str, int] = {}
        """What went wrong, and how often."""

    def start(self) -> None:
        """Publish what there is, then all that comes. AgentFailed, where the agent cannot learn what comes."""
        inside = self._memory.symbol("PyObject_Call")
        if inside is None or not self._agent.follow(inside):
            raise AgentFailed("the calls by which this Python makes code executable cannot be followed")
        self._agent.attend(self._attend)
        self._agent.resume(now=False)
        with self._lock:
            self._note_all()
        self.flush()

    def flush(self) -> None:
        """Have all JIT code published that there is now, before this returns."""
        with self._lock:
            self._look()
            while self._waiting:
                self._publish_some()

    def stop(self) -> None:
        """Follow no more; what is published stays so until it is freed."""
        self._agent.pause()
        with self._lock:
            self._agent.attend(None)

    def withdraw(self) -> None:
        """Take back all that is published of executors."""
        with self._lock:
            self._waiting.clear()
            for code in self._all():
                self._agent.withdraw_range(code.start, code.size)

    def pause(self) -> None:
        """Before a fork: no thread of ours, and nothing half done."""
        if self._attending != _thread.get_ident():
            self._agent.pause()
            self._lock.acquire()

    def resume(self, in_child: bool) -> None:
        """After a fork."""
        if in_child:
            self._memory = OwnProcess()
        if self._attending != _thread.get_ident():
            self._lock.release()
            self._agent.resume(now=bool(self._waiting))

    def _attend(self) -> None:
        """What the agent calls, in its thread, when there is something to do."""
        with self._lock:
            self._attending = _thread.get_ident()
            try:
                self._look()
                while self._waiting and not self._agent.is_paused():
                    self._publish_some()
            except Exception as error:  # there is nobody to tell, and the program must not suffer
                self._count(error)
            finally:
                self._attending = 0

    def _count(self, error: Exception) -> None:
        problem = f"{type(error).__name__}: {error}"
        self.problems[problem] = self.problems.get(problem, 0) + 1

    def _look(self) -> None:
        """Note what has come, and let go of what is to go."""
        for event in self._agent.take():
            if event.kind == CODE_CAME:
                self._waiting[event.start] = event.size
            else:
                self._waiting.pop(event.start, None)
                self._agent.unmap(event.start, event.size)
        if self._agent.lost():
            self._note_all()

    def _note_all(self) -> None:
        for code in self._all():
            self._agent.remember(code.start)
            self._waiting.setdefault(code.start, code.size)

    def _all(self) -> list[JitCode]:
        regions = Regions(self._memory, self._layout)
        return [code for start in regions.starts if (code := regions.find(start)) is not None]

    def _publish_some(self) -> None:
        """Publish what waits, or as much of it as can be made ready in some time."""
        some = list(islice(self._waiting.items(), _MOST_AT_ONCE))
        regions = Newcomers(self._memory, self._layout, some, self._parents)
        until = time.monotonic() + _AT_ONCE_SECONDS
        executors: list[tuple[int, int]] = []
        structs: list[RegionStruct] = []
        for start, _ in some:
            del self._waiting[start]
            code = None if self._agent.knows(start) else regions.find(start)
            if code is None:
                continue
            try:
                structs += _described(regions, code)
            except (JitunwindError, ValueError) as error:
                self._count(error)
                continue
            executors.append((code.executor, code.start))
            if time.monotonic() > until:
                break
        self._publish(structs, executors)

    def _publish(self, structs: list[RegionStruct], executors: list[tuple[int, int]]) -> None:
        of = self._layout.executor
        if of.registration is not None:
            self._agent.replace(structs, _CONSUMERS, executors, of.jit_code, of.registration)
        else:
            self._agent.publish(structs, _CONSUMERS)


def _described(regions: Regions, code: JitCode) -> list[RegionStruct]:
    """What to publish of an executor's code: its shim, where it has one of its own, and its body."""
    table = recover(X86_64, code.code, decode, code.entries())
    lines = regions.lines(code)
    structs = []
    for part in regions.parts(code):
        first = part.start - code.start
        of_part = [] if part.kind is RegionKind.SHIM else lines
        rows = [Line(max(row.offset - first, 0), row.filename, row.line) for row in of_part]
        structs.append(described(X86_64, part, table.part(first, first + part.size), rows))
    return structs


_follower: Follower | None = None
_is_guarded = False


def enable() -> None:
    """Publish, from now on, all JIT code of the CPython that this runs in, and withdraw it when it is freed.

    GDB, LLDB, libgcc (C++ exceptions, `backtrace`) and nongnu libunwind then know it. Enabled twice is enabled once.
    UnsupportedVersion for another CPython than 3.14 and 3.15; AgentMissing, if the agent was not built;
    AgentFailed, if it cannot work in this process.
    """
    global _follower, _is_guarded
    if _follower is not None:
        return
    follower = Follower()
    follower.start()
    _follower = follower
    if not _is_guarded:
        _is_guarded = True
        os.register_at_fork(
            before=_before_fork,
            after_in_parent=lambda: _after_fork(False),
            after_in_child=lambda: _after_fork(True),
        )
        atexit.register(_at_exit)


def disable() -> None:
    """Withdraw what `enable` has published, and publish no more. CPython 3.15's own entries do not come back."""
    global _follower
    follower, _follower = _follower, None
    if follower is not None:
        follower.stop()
        follower.withdraw()


def flush() -> None:
    """Have all JIT code that there is now published before this returns, if publishing is enabled."""
    if _follower is not None:
        _follower.flush()


def problems() -> dict[str, int]:
    """What could not be published, and how often: none, if all goes well."""
    return dict(_follower.problems) if _follower is not None else {}


def _before_fork() -> None:
    if _follower is not None:
        _follower.pause()


def _after_fork(in_child: bool) -> None:
    if _follower is not None:
        _follower.resume(in_child)


def _at_exit() -> None:
    """Code that is freed from now on is withdrawn by the agent alone."""
    if _follower is not None:
        _follower.stop()
