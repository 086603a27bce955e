"""Asking a running Python to publish its JIT code, or to stop that: the process executes `remote.py`, which answers.

The request is that of PEP 768 (`pep768.py`). The answer comes through a named pipe. A request that is not answered in
time is withdrawn.
"""

import contextlib
import os
import re
import selectors
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from jitunwind.errors import (
    AlreadyTraced,
    NoSafePoint,
    NoSuchProcess,
    NotEnabled,
    NotPermitted,
    NotPython,
    UnsupportedVersion,
)
from jitunwind.jits.cpython.discovery import read_layout
from jitunwind.jits.cpython.layout import Layout
from jitunwind.jits.cpython.versions import in_words
from jitunwind.memory.live import check_process, is_stopped_by_signal, is_stopped_by_tracer
from jitunwind.memory.process import LiveProcess
from jitunwind.memory.stopping import frozen_by
from jitunwind.startup.launch import search_folders
from jitunwind.startup.pep768 import Request

_FINDER = Path(__file__).with_name("finder.py")
_REMOTE = Path(__file__).with_name("remote.py")
_BEGUN = b"begun\n"
_END = b"\0"
_LONGEST_ANSWER = 1 << 16
_PATIENCE_SECONDS = 30
"""For what takes milliseconds: a Python that makes the request, and the work in the process once it has begun."""
_ENDING_SECONDS = 1
"""Between the moment when a process closes its files, and its end."""


@dataclass(frozen=True)
class Target:
    """A process, and the user whose it is."""

    pid: int
    user: int
    group: int

    @property
    def is_anothers(self) -> bool:
        return self.user != os.geteuid()


class Answer(NamedTuple):
    """What the process has done: `regions` published, or withdrawn. `is_off`: nothing, as its JIT is off; `already`: it
    did before what it was asked to. `files` are written for perf, `new_files` of them since it was asked. `warning`:
    what a user should know of its CPython, or empty."""

    regions: int
    already: bool = False
    is_off: bool = False
    warning: str = ""
    files: tuple[str, ...] = ()
    new_files: tuple[str, ...] = ()


def enable_in(pid: int, seconds: float, perf: str | None = None) -> Answer:
    """Have process `pid` publish its JIT code, and write it for perf: "jitdump" or "map". As `_ask`."""
    return _ask("enable", pid, seconds, perf)


def disable_in(pid: int, seconds: float) -> Answer:
    """Have process `pid` withdraw what it has published of its JIT code, and publish no more. As `_ask`."""
    return _ask("disable", pid, seconds)


def _ask(what: str, pid: int, seconds: float, perf: str | None = None) -> Answer:
    """Have process `pid` execute jitunwind.enable() or disable(): `what`.

    `seconds`: how long to wait until the process comes to a place where it can be executed.

    NoSuchProcess, NotPermitted, NotPython, UnsupportedVersion, RemoteDebuggingOff, NoSafePoint; NotEnabled where
    the process says why it could not.
    """
    _check(pid)
    with LiveProcess(pid) as memory:
        layout = _layout(pid, memory)
        target = _owner(pid)
        _check_view(pid)
        with _pipe(target) as (folder, channel), _Death(pid) as death:
            script, answer = folder.here / "request.py", folder.inside / "answer"
            script.write_text(_script(what, answer, perf))
            if target.is_anothers:
                os.chown(script, target.user, target.group)
            listener = _Listener(pid, channel, death)
            with contextlib.closing(Request(memory, layout)) as request:
                try:
                    request.make(str(folder.inside / script.name))
                    if not listener.wait_for(_BEGUN, seconds):
                        request.withdraw()
                        if not listener.wait_for(_BEGUN, 0):
                            raise _no_safe_point(pid, seconds)
                except KeyboardInterrupt:
                    with contextlib.suppress(NoSuchProcess):
                        request.withdraw()
                    raise
            if not listener.wait_for(_END, _PATIENCE_SECONDS):
                raise NotEnabled(
                    f"process {pid} began to {what} publishing, and has not said within {_PATIENCE_SECONDS} s "
                    "how it went"
                )
    return _meaning(what, pid, listener.said)._replace(warning=layout.warning)


def _check(pid: int) -> None:
    """NoSuchProcess, NotPermitted, NoSafePoint: whether the process can be asked, and would answer."""
    with contextlib.suppress(AlreadyTraced):  # a debugger that lets it run is no obstacle
        check_process(pid)
    if is_stopped_by_signal(pid):
        raise NoSafePoint(f"process {pid} has been stopped by a signal", f"let it go on: kill -CONT {pid}")
    if is_stopped_by_tracer(pid):
        raise NoSafePoint(
            f"a debugger has stopped process {pid}", "let it go on, or call jitunwind.enable() in it"
        )
    frozen = frozen_by(pid)
    if frozen is not None:
        raise NoSafePoint(f"process {pid} is frozen, with its cgroup {frozen.group}", frozen.hint)


def _layout(pid: int, memory: LiveProcess) -> Layout:
    """NotPython, UnsupportedVersion."""
    try:
        return read_layout(memory)
    except NotPython as error:
        raise NotPython(f"process {pid} is no CPython: {error}", error.hint) from None
    except UnsupportedVersion as error:
        raise UnsupportedVersion(
            f"process {pid}: {error}", f"JIT code is published on {in_words('and')}"
        ) from None


def _owner(pid: int) -> Target:
    """NoSuchProcess."""
    try:
        fields = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except OSError:
        raise NoSuchProcess(f"process {pid} has ended") from None
    user, group = (re.search(rf"^{name}:(?:\s+(\d+)){{4}}", fields, re.MULTILINE) for name in ("Uid", "Gid"))
    if user is None or group is None:
        raise NoSuchProcess(f"process {pid} has ended")
    return Target(pid, int(user[1]), int(group[1]))  # those for files (proc(5))


def _sees(pid: int, path: Path | str) -> bool:
    """Whether the process has the same file at `path` as we have: its root or its mounts may be others."""
    try:
        return os.path.samefile(path, f"/proc/{pid}/root{path}")
    except OSError:
        return False


def _check_view(pid: int) -> None:
    """NotPermitted, where the process does not see what it is to import."""
    hidden = [path for path in (*search_folders(), str(_FINDER)) if not _sees(pid, path)]
    if hidden:
        raise NotPermitted(
            f"process {pid} sees other files than this one, and jitunwind's own are not among them",
            "run a jitunwind that is installed in its container, or in its root directory (chroot(1))",
        )


class _Folder(NamedTuple):
    """One folder, as we see it and as the process sees it."""

    here: Path
    inside: Path


def _new_folder(target: Target) -> _Folder:
    """NotPermitted, where none can be made."""
    ours = "/tmp" if target.is_anothers else tempfile.gettempdir()
    if _sees(target.pid, ours):
        made = Path(tempfile.mkdtemp(prefix="jitunwind-", dir=ours))
        return _Folder(made, made)
    root = Path(f"/proc/{target.pid}/root")
    try:
        made = Path(tempfile.mkdtemp(prefix="jitunwind-", dir=root / "tmp"))
    except OSError as error:
        raise NotPermitted(
            f"no file can be made where process {target.pid} sees it: {error.strerror}",
            "give it a /tmp, or call jitunwind.enable() in it",
        ) from None
    return _Folder(made, Path("/") / made.relative_to(root))


@contextlib.contextmanager
def _pipe(target: Target) -> Iterator[tuple[_Folder, int]]:
    """A folder that the target's user may use and nobody else, and the reading end of the pipe `answer` in it."""
    folder = _new_folder(target)
    try:
        answer = folder.here / "answer"
        os.mkfifo(answer, 0o600)
        channel = os.open(answer, os.O_RDONLY | os.O_NONBLOCK)
        try:
            if target.is_anothers:
                os.chown(answer, target.user, target.group)
                os.chown(folder.here, target.user, target.group)
            yield folder, channel
        finally:
            os.close(channel)
    finally:
        shutil.rmtree(folder.here, ignore_errors=True)


class _Death:
    """A descriptor that can be read once the process has ended (pidfd_open(2))."""

    def __init__(self, pid: int) -> None:
        try:
            self.descriptor = os.pidfd_open(pid)
        except OSError:
            raise NoSuchProcess(f"process {pid} has ended") from None

    def __enter__(self) -> int:
        return self.descriptor

    def __exit__(self, *exception: object) -> None:
        os.close(self.descriptor)


class _Listener:
    """Collects what the process says."""

    def __init__(self, pid: int, channel: int, death: int) -> None:
        self.said = b""
        self._pid = pid
        self._channel = channel
        self._death = death
        self._selector = selectors.DefaultSelector()
        self._selector.register(channel, selectors.EVENT_READ)
        self._selector.register(death, selectors.EVENT_READ)

    def wait_for(self, word: bytes, seconds: float) -> bool:
        """Whether it says `word` in that time; NoSuchProcess, where it ends instead."""
        deadline = time.monotonic() + seconds
        while word not in self.said:
            ready = [key.fd for key, _ in self._selector.select(max(deadline - time.monotonic(), 0))]
            if not ready:
                return False
            more = os.read(self._channel, _LONGEST_ANSWER) if self._channel in ready else b""
            self.said += more
            if len(self.said) > _LONGEST_ANSWER:
                raise NotEnabled(f"process {self._pid} answers nonsense")
            if more:
                continue
            if self._death in ready:
                raise NoSuchProcess(f"process {self._pid} has ended before it answered")
            self._selector.unregister(
                self._channel
            )  # it has closed the pipe: it is ending, or another program
            deadline = min(deadline, time.monotonic() + _ENDING_SECONDS)
        return True


def _no_safe_point(pid: int, seconds: float) -> NoSafePoint:
    """Why it did not come to one, as far as the kernel knows."""
    try:
        state = Path(f"/proc/{pid}/task/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        state = ""
    doing = {
        "R": "runs C code",
        "S": "waits in a system call",
        "D": "is in an uninterruptible wait (state D)",
    }.get(state)
    return NoSafePoint(
        f"in {seconds:g} s process {pid} has come to no place where Python can execute something"
        + (f": its main thread {doing}" if doing else ""),
        "nothing was changed; try again when its main thread executes Python code, or wait longer: --timeout 60",
    )


def _script(what: str, answer: Path, perf: str | None) -> str:
    """The text that the process executes: its user may not be able to read this package's files."""
    text = _REMOTE.read_text(encoding="utf-8")
    return f"{text}\nbegin({what!r}, {search_folders()!r}, {str(_FINDER)!r}, {str(answer)!r}, {perf!r})\n"


def _meaning(asked: str, pid: int, said: bytes) -> Answer:
    """What the answer means: see `remote.py`. It is of the process's own making."""
    text = said.removeprefix(_BEGUN).partition(_END)[0].decode(errors="replace")
    word, what, hint, files, *_ = [*text.split("\n"), "", "", ""]
    if word == "failed":
        raise NotEnabled(f"process {pid} cannot {asked} publishing: {_plain(what)}", _plain(hint))
    if word == "off":
        return Answer(0, is_off=True)
    if word not in ("done", "already") or not (what.isascii() and what.isdigit()):
        raise NotEnabled(f"process {pid} answers nonsense")
    new, every = (tuple(map(_plain, line.split())) for line in (hint, files))
    return Answer(int(what), already=word == "already", files=every, new_files=new)


def _plain(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)
