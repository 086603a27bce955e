"""A live process before anybody attaches to it: is it there, is it ours, is it something we understand."""

import errno
import os
from pathlib import Path

from jitunwind.errors import AlreadyTraced, NoSuchProcess, NotPermitted

JIT_SWITCH = "PYTHON_JIT"


def check_process(pid: int) -> None:
    """NoSuchProcess, AlreadyTraced or NotPermitted, where attaching to `pid` cannot work."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (OSError, OverflowError):
        raise NoSuchProcess(f"there is no process {pid}") from None
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    state = fields.get("State", "").strip()[:1]
    if state in ("Z", "X"):
        raise NoSuchProcess(f"process {pid} has ended already")
    tracer = int(fields.get("TracerPid", "0"))
    if tracer:
        raise AlreadyTraced(f"process {pid} is being traced by process {tracer} ({_name(tracer)})")
    try:
        os.close(os.open(f"/proc/{pid}/mem", os.O_RDONLY))
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            raise NotPermitted(f"process {pid} ({_name(pid)}) may not be looked into by this user") from None
        raise NoSuchProcess(f"process {pid} has ended") from None


def is_stopped_by_tracer(pid: int) -> bool:
    """Whether the process stands still because a debugger has stopped it."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] == "t"


def jit_switch(pid: int) -> str | None:
    """The value of PYTHON_JIT that the process was started with; None, if it was not set, or is not to be had."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return None
    for entry in environment.split(b"\0"):
        name, _, value = entry.partition(b"=")
        if name == JIT_SWITCH.encode():
            return value.decode(errors="replace")
    return None


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "?"
