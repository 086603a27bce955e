"""A live process before anybody attaches to it: is it there, is it ours, is it something we understand."""

import contextlib
import errno
import os
import shlex
from collections.abc import Iterator

from jitunwind.errors import AlreadyTraced, CannotStop, NoSuchProcess, NotPermitted, NotPython
from jitunwind.memory.procfiles import text_of

LARGEST_PID = 1 << 22
"""PID_MAX_LIMIT of 64-bit Linux (include/linux/threads.h)."""
_ENDED = ("Z", "X", "x")
_CAP_SYS_PTRACE = 19
"""capabilities(7); Linux include/uapi/linux/capability.h."""
_STOPPED_BY_SIGNAL = "T"
_STOPPED_BY_TRACER = "t"


def is_number(target: str) -> bool:
    """Whether `target` is meant as a process's number, rather than a file or a program."""
    return target.isascii() and target.isdigit()


def check_process(pid: int) -> None:
    """NoSuchProcess, AlreadyTraced, CannotStop, NotPermitted or NotPython, where attaching to `pid` cannot work."""
    if _status(pid).get("State", "")[:1] in _ENDED:
        if any(each.get("State", "")[:1] not in _ENDED for each in task_status(pid)):
            raise CannotStop(
                f"the main thread of process {pid} has ended, others live: that is for bt alone to look at",
                f"jitunwind bt {pid}",
            )
        raise NoSuchProcess(f"process {pid} has ended already")
    check_threads(pid)


def check_threads(pid: int) -> None:
    """The same for what looks at each thread by itself: there the main thread may have ended, if others live."""
    fields = _status(pid)
    if not fields:
        raise NoSuchProcess(f"there is no process {pid}")
    if fields.get("State", "")[:1] in _ENDED:
        others = (each for each in task_status(pid) if each.get("State", "")[:1] not in _ENDED)
        fields = next(others, {})
        if not fields:
            raise NoSuchProcess(f"process {pid} has ended already")
        fields["Tgid"] = str(pid)
    process = int(fields.get("Tgid", pid))
    if process != pid:
        raise NoSuchProcess(
            f"{pid} is no process, but a thread of process {process}",
            f"jitunwind bt {process} --thread {pid}",
        )
    tracer = int(fields.get("TracerPid", "0"))
    if tracer:
        raise AlreadyTraced(f"process {pid} is being traced by process {tracer} ({_name(tracer)})")
    try:
        task = f"/proc/{pid}/task/{fields['Pid']}"
        os.close(os.open(f"{task}/mem", os.O_RDONLY))
        os.readlink(f"{task}/exe")
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            raise not_permitted(f"process {pid} ({_name(pid)}) may not be looked into by this user") from None
        if is_alive(pid):
            raise NotPython(
                f"process {pid} ({_name(pid)}) is a thread of the kernel",
                f"as root, the kernel shows its stack: cat /proc/{pid}/stack",
            ) from None
        raise NoSuchProcess(f"process {pid} has ended") from None


def not_permitted(message: str) -> NotPermitted:
    """The error, with what helps this user: to become root does not help root."""
    if os.geteuid() != 0:
        return NotPermitted(message)
    own = _status(os.getpid()).get("CapEff", "")
    if own and not int(own, 16) >> _CAP_SYS_PTRACE & 1:
        return NotPermitted(
            message,
            "this root lacks the capability CAP_SYS_PTRACE: docker run --cap-add=SYS_PTRACE, "
            "or run jitunwind outside of the container",
        )
    return NotPermitted(
        message,
        "this user is root already: the process is outside of this container, or a security module "
        "(SELinux, AppArmor, Yama's ptrace_scope 3) forbids it; run jitunwind on the host",
    )


def is_alive(pid: int) -> bool:
    """Whether there is such a process, and it has not ended; one whose parent has not asked yet has."""
    return _state(pid) not in ("", *_ENDED)


def process_has_ended(pid: int) -> bool:
    """Whether all threads of a process have ended: its main thread may have, and others live."""
    return all(each.get("State", "")[:1] in _ENDED for each in task_status(pid))


def has_ended(pid: int, error: OSError) -> bool:
    """Whether `error` comes of the process `pid` having ended. Its files in /proc are gone then, and reading one that
    is open fails with ESRCH, without a name (proc(5)). A process that has ended lacks its root and executable, even if
    its parent has not asked yet."""
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    is_about_it = any(name.startswith(f"/proc/{pid}/") or name == f"/proc/{pid}" for name in names)
    return (is_about_it or not names) and not is_alive(pid)


def is_stopped_by_tracer(pid: int) -> bool:
    """Whether the process stands still because a debugger has stopped it."""
    return _state(pid) == _STOPPED_BY_TRACER


def is_stopped_by_signal(pid: int) -> bool:
    """Whether the process stands still because of a SIGSTOP, or the like, until a SIGCONT."""
    return _state(pid) == _STOPPED_BY_SIGNAL


def thread_states(pid: int) -> dict[int, str]:
    """The state of each thread now, by its kernel id (proc(5), State): active (on a processor, or ready to be), idle
    (it waits), or stopped (by a signal, or a debugger)."""
    states = {"R": "active", _STOPPED_BY_SIGNAL: "stopped", _STOPPED_BY_TRACER: "stopped"}
    return {int(each["Pid"]): states.get(each["State"][:1], "idle") for each in task_status(pid)}


def command_line(pid: int) -> str:
    """The arguments that the process was started with, quoted as for a shell; empty where it has none."""
    try:
        text = text_of(f"/proc/{pid}/cmdline")
    except OSError:
        return ""
    return shlex.join(text.rstrip("\0").split("\0")) if text else ""


def executable(pid: int) -> str | None:
    """The path of its program; None where that cannot be told."""
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return None


def executable_here(pid: int) -> str | None:
    """The path of its program, where the same file has it here, too: not where it was replaced, or is in a
    container."""
    path = executable(pid)
    try:
        return path if path and os.path.samefile(path, f"/proc/{pid}/exe") else None
    except OSError:
        return None


def deleted_executable(pid: int) -> str | None:
    """Where the program's file can be opened, if it was deleted while it runs; else None."""
    link = f"/proc/{pid}/exe"
    is_deleted = (executable(pid) or "").endswith(" (deleted)")
    return link if is_deleted and os.access(link, os.R_OK) else None


def task_status(pid: int) -> Iterator[dict[str, str]]:
    """/proc/PID/task/TID/status (proc(5)) of each thread; of those that have gone meanwhile, none."""
    with contextlib.suppress(OSError):
        for tid in os.listdir(f"/proc/{pid}/task"):
            fields = _fields(f"/proc/{pid}/task/{tid}/status")
            if fields:
                yield fields


def ids_inside(pid: int) -> dict[int, int]:
    """The threads of a process by the numbers that they have in their own PID namespace (proc(5), NSpid); empty, where
    there is no such process."""
    return {int(each.get("NSpid", each["Pid"]).split()[-1]): int(each["Pid"]) for each in task_status(pid)}


def _status(pid: int) -> dict[str, str]:
    """/proc/PID/status (proc(5)); empty, where there is no such process."""
    if not 0 < pid <= LARGEST_PID:
        return {}
    return _fields(f"/proc/{pid}/status")


def _fields(file: str) -> dict[str, str]:
    try:
        text = text_of(file)
    except OSError:
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


def _state(pid: int) -> str:
    """The state's letter (proc(5), /proc/PID/stat, field 3); empty, where there is no such process."""
    try:
        text = text_of(f"/proc/{pid}/stat")
        return text.rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


def _name(pid: int) -> str:
    try:
        return text_of(f"/proc/{pid}/comm").strip()
    except OSError:
        return "?"
