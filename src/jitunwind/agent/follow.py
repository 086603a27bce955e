"""Publishing the JIT code of the CPython that this runs in, as it comes and goes.

The agent notes where code has come or is to go, and has `Follower.attend` called in a thread of its own soon
afterwards. The thread is there only while there is something to do.
"""

import _thread
import atexit
import os
import sys
import time
from typing import TYPE_CHECKING

from jitunwind.agent.library import CODE_CAME, GDB, LIBGCC, LIBUNWIND, agent
from jitunwind.errors import AgentFailed, UnsupportedVersion

if TYPE_CHECKING:
    from jitunwind.agent.describing import Described, Describer

_CONSUMERS = GDB | LIBGCC | LIBUNWIND
_MOST_AT_ONCE = 64
_AT_ONCE_SECONDS = 0.03
"""After so much work what is ready is published, the rest later: new code should not wait for a tenth of a second."""


class Follower:
    """Follows the interpreter of one process; in the child of a fork it goes on."""

    def __init__(self) -> None:
        self._agent = agent()
        self._lock = _thread.allocate_lock()
        """Held while something is looked at and published."""
        self._attending = 0
        """The thread that attends, while it does."""
        self._waiting: dict[int, int] = {}
        """Code that has come and has not been looked at: start to size, the oldest first."""
        self._describer: Describer | None = None
        self.problems: dict[str, int] = {}
        """What went wrong, and how often."""

    def start(self) -> None:
        """Publish what there is, then all that comes. AgentFailed, where the agent cannot learn what comes."""
        if not self._agent.follow("PyObject_Call"):
            raise AgentFailed("the calls by which this Python makes code executable cannot be followed")
        self._agent.attend(self._attend)
        self._agent.resume(False)
        if _may_have_jit_code():
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
            for start, size in self._describe().everything():
                self._agent.withdraw_range(start, size)

    def pause(self) -> None:
        """Before a fork: no thread of ours, and nothing half done."""
        if self._attending != _thread.get_ident():
            self._agent.pause()
            self._lock.acquire()

    def resume(self, in_child: bool) -> None:
        """After a fork."""
        if in_child:
            self._describer = None
        if self._attending != _thread.get_ident():
            self._lock.release()
            self._agent.resume(bool(self._waiting))

    def _attend(self) -> None:
        """What the agent calls, in its thread, when there is something to do."""
        with self._lock:
            self._attending = _thread.get_ident()
            try:
                self._look()
                while self._waiting and not self._agent.is_paused():
                    self._publish_some()
                    self._look()  # what has gone meanwhile needs not be published any more
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
        for start, size in self._describe().everything():
            self._agent.remember(start)
            self._waiting.setdefault(start, size)

    def _describe(self) -> "Describer":
        """Made, and what it needs imported, when the first code has come: most processes make none."""
        if self._describer is None:
            from jitunwind.agent.describing import Describer

            self._describer = Describer()
        return self._describer

    def _publish_some(self) -> None:
        """Publish what waits, or as much of it as can be made ready in some time."""
        some = []
        for start, size in list(self._waiting.items())[:_MOST_AT_ONCE]:
            if self._agent.knows(start):
                del self._waiting[start]
            else:
                some.append((start, size))
        until = time.monotonic() + _AT_ONCE_SECONDS
        ready: list[Described] = []
        for start, outcome in self._describe().described(some):
            del self._waiting[start]
            if isinstance(outcome, Exception):
                self._count(outcome)
            else:
                ready.append(outcome)
            if time.monotonic() > until:
                break
        try:
            self._publish(ready)
        except AgentFailed:  # one of them: somebody else has published what overlaps it
            for each in ready:
                try:
                    self._publish([each])
                except AgentFailed as error:
                    self._count(error)

    def _publish(self, ready: "list[Described]") -> None:
        regions = [each.region for each in ready]
        offsets = self._describe().own_registration
        if offsets is None:
            self._agent.publish(regions, _CONSUMERS)
        else:
            executors = [(each.executor, each.region.start) for each in ready]
            self._agent.replace(regions, _CONSUMERS, executors, offsets)


def _may_have_jit_code() -> bool:
    """Whether memory is mapped that may be JIT code: executable, and of no file."""
    with open("/proc/self/maps", "rb") as file:
        return any(b"r-xp 00000000 00:00 0" in line and b"[v" not in line for line in file)


_follower: Follower | None = None
_is_guarded = False


def enable() -> None:
    """Publish, from now on, all JIT code of the CPython that this runs in, and withdraw it when it is freed.

    Nothing is done where it has no JIT, and in other interpreters than the main one, whose JIT is off.
    GDB, LLDB, libgcc (C++ exceptions, `backtrace`) and nongnu libunwind then know it. Enabled twice is enabled once.
    UnsupportedVersion for another CPython than 3.14 and 3.15; AgentMissing, if the agent was not built;
    AgentFailed, if it cannot work in this process.
    """
    global _follower, _is_guarded
    if _follower is not None:
        return
    if not hasattr(sys, "_jit"):
        raise UnsupportedVersion(f"CPython {sys.version_info[0]}.{sys.version_info[1]} is not known here")
    if not sys._jit.is_available() or not agent().in_main_interpreter():
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


_paused: dict[int, Follower] = {}
"""By thread, the follower that has paused because this thread forks: it may be disabled meanwhile."""


def _before_fork() -> None:
    if _follower is not None:
        _paused[_thread.get_ident()] = _follower
        _follower.pause()


def _after_fork(in_child: bool) -> None:
    follower = _paused.pop(_thread.get_ident(), None)
    if follower is not None:
        follower.resume(in_child)


def _at_exit() -> None:
    """Code that is freed from now on is withdrawn by the agent alone."""
    if _follower is not None:
        _follower.stop()
