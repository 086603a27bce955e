"""Stopping a live process: whether it can stop now, and undoing a stop that a debugger leaves behind.

GDB attaches with PTRACE_ATTACH, which sends a SIGSTOP to each thread (ptrace(2)). If GDB dies before it lets go, that
signal stays: taken already, it leaves the process stopped (state T); pending, it stops the process later. A thread in
an uninterruptible wait and a process in a frozen cgroup take no signal, so that GDB waits for them without an end.
"""

import contextlib
import errno
import os
import signal
import time
from collections.abc import Iterator
from typing import NamedTuple

from jitunwind.arch.known import ARCHITECTURES
from jitunwind.errors import CannotStop, NoSuchProcess
from jitunwind.memory.live import task_status
from jitunwind.memory.procfiles import text_of

_LONGEST_SHORT_WAIT = 1.0
"""Seconds: a thread that waits uninterruptibly for longer, without running in between, may wait for ever."""
_POLL_SECONDS = 0.01
_UNINTERRUPTIBLE, _STOPPED = "D", "T"
_SIGSTOP_BIT = 1 << signal.SIGSTOP - 1
"""In the masks of /proc/PID/status (proc(5))."""


def check_can_stop(pid: int) -> None:
    """CannotStop, if the process is frozen, or a thread of it has waited uninterruptibly for a second."""
    check_not_frozen(pid)
    for tid in long_waiting(pid):
        raise CannotStop(
            f"process {pid} cannot be stopped: its thread {tid} is in an uninterruptible wait (state D)"
            + cause_of_wait(pid, tid),
            "try again when the wait is over; until then the kernel keeps every signal from that thread",
        )


def check_not_frozen(pid: int) -> None:
    """CannotStop, if the process is frozen."""
    frozen = frozen_by(pid)
    if frozen is not None:
        raise CannotStop(f"process {pid} cannot be stopped: its cgroup {frozen.group} is frozen", frozen.hint)


def long_waiting(pid: int) -> list[int]:
    """The threads that have waited uninterruptibly for a second. So this takes a second, if there are any."""
    waiting = dict(_uninterruptible(pid))
    deadline = time.monotonic() + _LONGEST_SHORT_WAIT
    while waiting and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
        waiting = dict(waiting.items() & set(_uninterruptible(pid)))
    return sorted(waiting)


class Standing:
    """Whether a process stood still before a debugger came, to leave it so.

    NoSuchProcess. The process is held by a descriptor, so that another one with its number gets no signal; -1 where a
    container forbids pidfd_open(2).
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        try:
            self.descriptor = os.pidfd_open(pid)
        except OSError as error:
            if error.errno == errno.ESRCH:
                raise NoSuchProcess(f"there is no process {pid}") from None
            self.descriptor = -1
        threads = list(task_status(pid))
        self._stood = any(
            fields.get("State", "").startswith(_STOPPED) or _is_pending(fields, "SigPnd", "ShdPnd")
            for fields in threads
        )

    def undo(self, status: int | None) -> None:
        """Let the process go on if the debugger, which has ended, has left a SIGSTOP. Does nothing if the process
        stood still before, or another debugger has it.

        `status`: the debugger's exit status, negative or None if it was killed. Then it may have left a stop that
        nothing shows: a thread runs between taking SIGSTOP and stopping. With an error it may have left the process
        stopped. With 0, only what is still pending is its own: a stop is somebody's who has stopped the process since.
        PTRACE_ATTACH sends SIGSTOP to threads, kill(2) to processes. SIGCONT undoes each of them (signal(7); Linux
        kernel/signal.c, prepare_signal).
        """
        threads = list(task_status(self.pid))
        if self._stood or any(fields.get("TracerPid") != "0" for fields in threads):
            return
        if any(_is_pending(fields, "ShdPnd") for fields in threads):
            return  # somebody stops it
        was_killed = status is None or status < 0
        is_stopped = bool(status) and any(fields.get("State", "").startswith(_STOPPED) for fields in threads)
        if was_killed or is_stopped or any(_is_pending(fields, "SigPnd") for fields in threads):
            with contextlib.suppress(OSError):  # it has ended, or is not ours any more
                if self.descriptor < 0:
                    os.kill(self.pid, signal.SIGCONT)
                else:
                    signal.pidfd_send_signal(self.descriptor, signal.SIGCONT)

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


def _is_pending(fields: dict[str, str], *names: str) -> bool:
    """Whether a SIGSTOP is pending, for the thread (SigPnd) or for its process (ShdPnd)."""
    return any(int(fields.get(name, "0"), 16) & _SIGSTOP_BIT for name in names)


def _uninterruptible(pid: int) -> Iterator[tuple[int, str]]:
    """Each thread in an uninterruptible wait, and how often it has gone to sleep: a new number is a new wait."""
    for fields in task_status(pid):
        if fields.get("State", "").startswith(_UNINTERRUPTIBLE):
            yield int(fields["Pid"]), fields.get("voluntary_ctxt_switches", "")


def cause_of_wait(pid: int, tid: int) -> str:
    """What a thread waits for, as far as the kernel tells."""
    try:
        call = int(text_of(f"/proc/{pid}/task/{tid}/syscall").split()[0])
        children = text_of(f"/proc/{pid}/task/{tid}/children").split()
    except (OSError, ValueError, IndexError):
        return ""
    arch = ARCHITECTURES.get(os.uname().machine)
    if arch is not None and call in arch.linux.calls.wait_for_child and children:
        return f" for its child {children[-1]}, started with vfork"
    return f" in system call {call}"


class Frozen(NamedTuple):
    """The folder of a frozen cgroup, and what to do."""

    group: str
    hint: str


def frozen_by(pid: int) -> Frozen | None:
    """The frozen cgroup that a process is in. None: it is in none, or in one that this mount namespace does not show
    (cgroups(7); Linux admin-guide/cgroup-v2 and cgroup-v1/freezer-subsystem)."""
    for is_v2, folder in _groups(pid):
        says, thaws = ("cgroup.freeze",) * 2 if is_v2 else ("freezer.self_freezing", "freezer.state")
        for each in _with_parents(folder):  # those above freeze it, too
            if _text(f"{each}/{says}").startswith("1"):
                return Frozen(each, f"thaw it: echo {0 if is_v2 else 'THAWED'} > {each}/{thaws}")
        if is_v2 and "frozen 1" in _text(f"{folder}/cgroup.events").splitlines():
            return Frozen(folder, "thaw it from outside this container: what freezes it is not visible here")
    return None


def _groups(pid: int) -> Iterator[tuple[bool, str]]:
    """The folders of a process's cgroups that can be frozen; of v2, or not."""
    groups = [line.split(":", 2) for line in _text(f"/proc/{pid}/cgroup").splitlines()]
    for line in _text("/proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        is_v2 = kind == "cgroup2"
        if not is_v2 and not (kind == "cgroup" and "freezer" in options.split(",")):
            continue
        root, place = before.split()[3:5]
        for number, controllers, path in groups:
            if (number == "0") if is_v2 else ("freezer" in controllers.split(",")):
                above = root.rstrip("/")
                if path == root or path.startswith(f"{above}/"):  # else it is outside of what is mounted here
                    yield is_v2, (place.rstrip("/") + path[len(above) :]).rstrip("/")


def _with_parents(folder: str) -> Iterator[str]:
    while folder:
        yield folder
        folder = folder.rpartition("/")[0]


def _text(path: str) -> str:
    try:
        return text_of(path)
    except OSError:
        return ""
