"""Asking a running Python to publish its JIT code, or to do so no more: `remote.py` is sent, and answers.

The request is CPython's own, sys.remote_exec (PEP 768), made by a Python of the same minor version: by default the
program of the process itself. What comes back is what the process says, through a named pipe; a request that is
not answered is withdrawn.
"""

import contextlib
import os
import re
import selectors
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jitunwind.errors import (
    AlreadyTraced,
    CannotStart,
    JitunwindError,
    NoSafePoint,
    NoSuchProcess,
    NotEnabled,
    NotPermitted,
    NotPython,
    RemoteDebuggingOff,
    UnsupportedVersion,
)
from jitunwind.jits.cpython.layout import read_layout
from jitunwind.jits.cpython.versions import in_words
from jitunwind.memory.live import check_process, is_alive, is_stopped_by_signal, is_stopped_by_tracer
from jitunwind.memory.process import LiveProcess
from jitunwind.memory.stopping import frozen_by
from jitunwind.startup.launch import search_folders

_FINDER = Path(__file__).with_name("finder.py")
_REMOTE = Path(__file__).with_name("remote.py")
_BEGUN = b"begun\n"
_END = b"\0"
_LONGEST_ANSWER = 1 << 16
_PATIENCE_SECONDS = 30
"""For what takes milliseconds: a Python that makes the request, and the work in the process once it has begun."""
_ENDING_SECONDS = 1
"""Between the moment when a process closes its files, and its end."""
_ASK = """
import sys
try:
    sys.remote_exec(int(sys.argv[1]), sys.argv[2])
except BaseException as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""
_IS_PYTHON = re.compile(r"python[\d.]*[a-z]*")
_WRITABLE_BY_OTHERS = 0o022
_PLACES = ("PYTHONHOME", "LD_LIBRARY_PATH")


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
    did before what it was asked to."""

    regions: int
    already: bool = False
    is_off: bool = False


def enable_in(pid: int, python: str | None, seconds: float) -> Answer:
    """Have process `pid` publish its JIT code. As `_ask`."""
    return _ask("enable", pid, python, seconds)


def disable_in(pid: int, python: str | None, seconds: float) -> Answer:
    """Have process `pid` withdraw what it has published of its JIT code, and publish no more. As `_ask`."""
    return _ask("disable", pid, python, seconds)


def _ask(what: str, pid: int, python: str | None, seconds: float) -> Answer:
    """Have process `pid` execute jitunwind.enable() or disable(): `what`.

    `python`: one of the same minor version, which makes the request; None for the program of the process.
    `seconds`: how long to wait until the process comes to a place where it can be executed.

    NoSuchProcess, NotPermitted, NotPython, UnsupportedVersion, RemoteDebuggingOff, NoSafePoint; NotEnabled where
    the process says why it could not.
    """
    target = _look(pid)
    asker = Asker(target, python)
    with _pipe(target) as (folder, channel), _Death(pid) as death:
        script, answer = folder / "enable.py", folder / "answer"
        script.write_text(_script(what, answer))
        if target.is_anothers:
            os.chown(script, target.user, target.group)
        listener = _Listener(pid, channel, death)
        try:
            asker.ask(script)
            if not listener.wait_for(_BEGUN, seconds):
                asker.ask(os.devnull)  # to be executed in place of the script, which will be gone
                if not listener.wait_for(_BEGUN, 0):
                    raise _no_safe_point(pid, seconds)
        except KeyboardInterrupt:
            with contextlib.suppress(JitunwindError):
                asker.ask(os.devnull)
            raise
        if not listener.wait_for(_END, _PATIENCE_SECONDS):
            raise NotEnabled(
                f"process {pid} began to {what} publishing, and has not said within {_PATIENCE_SECONDS} s how it went"
            )
    return _meaning(what, pid, listener.said)


def _look(pid: int) -> Target:
    """The process, if it is one that can be asked."""
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
    try:
        with LiveProcess(pid) as memory:
            read_layout(memory)
    except NotPython as error:
        raise NotPython(f"process {pid} is no CPython: {error}", error.hint) from None
    except UnsupportedVersion as error:
        raise UnsupportedVersion(
            f"process {pid}: {error}", f"JIT code is published on {in_words('and')}"
        ) from None
    try:
        if os.stat(f"/proc/{pid}/ns/mnt").st_ino != os.stat("/proc/self/ns/mnt").st_ino:
            raise NotPermitted(
                f"process {pid} sees other files than this one", "run jitunwind in its container"
            )
        fields = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except OSError:
        raise NoSuchProcess(f"process {pid} has ended") from None
    user, group = (re.search(rf"^{name}:(?:\s+(\d+)){{4}}", fields, re.MULTILINE) for name in ("Uid", "Gid"))
    if user is None or group is None:
        raise NoSuchProcess(f"process {pid} has ended")
    return Target(pid, int(user[1]), int(group[1]))  # those for files (proc(5))


def _has_program(pid: int) -> bool:
    """Whether the process still has one: it loses that a moment before it counts as ended."""
    try:
        os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return False
    return True


class Asker:
    """The Python that makes requests."""

    def __init__(self, target: Target, python: str | None) -> None:
        self._target = target
        self._user: dict[str, Any] = {}
        self._environment: dict[str, str] = {}
        if python is not None:
            found = shutil.which(python)
            if found is None:
                raise CannotStart(f"--python {python}: that is no program that can be run")
            self._file = self._name = found
            return
        self._file = f"/proc/{target.pid}/exe"
        try:
            self._name = os.readlink(self._file).removesuffix(" (deleted)")
            program = os.stat(self._file)
        except OSError:
            raise NoSuchProcess(f"process {target.pid} has ended") from None
        if not _IS_PYTHON.fullmatch(os.path.basename(self._name)):
            raise CannotStart(
                f"process {target.pid} is a program with a Python in it ({self._name})",
                "name a Python of the same minor version, which makes the request: --python PYTHON",
            )
        is_trusted = program.st_uid in (0, os.geteuid()) and not program.st_mode & _WRITABLE_BY_OTHERS
        if target.is_anothers and is_trusted:
            return  # as root, and then by nothing of the other user's
        self._environment = _places(target.pid)
        if target.is_anothers:
            self._user = {"user": target.user, "group": target.group, "extra_groups": []}

    def ask(self, script: Path | str) -> None:
        """Have the process execute `script` as soon as it can. An interruption comes before that, or after."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # the Python inherits it
        try:
            done = self._run(script)
        except (OSError, subprocess.TimeoutExpired) as error:
            if not is_alive(self._target.pid) or not _has_program(self._target.pid):
                raise NoSuchProcess(f"process {self._target.pid} has ended") from None
            raise CannotStart(f"{self._name} cannot make the request: {error}") from None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if done.returncode:
            raise self._refusal(done.stderr.strip().rpartition("\n")[2])

    def _run(self, script: Path | str) -> "subprocess.CompletedProcess[str]":
        command = [self._name, "-PsS", "-c", _ASK, str(self._target.pid), str(script)]
        return subprocess.run(
            command,
            executable=self._file,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=_PATIENCE_SECONDS,
            check=False,
            **self._user,
        )

    def _refusal(self, said: str) -> JitunwindError:
        pid = self._target.pid
        if not is_alive(pid):
            return NoSuchProcess(f"process {pid} has ended")
        if "not enabled in the remote process" in said:
            return RemoteDebuggingOff(f"process {pid} has remote debugging switched off")
        if said.startswith("PermissionError") or "Operation not permitted" in said:
            return NotPermitted(f"process {pid} may not be written to by this user")
        return NotEnabled(
            f"{self._name} could not ask process {pid}: {_plain(said)}", "call jitunwind.enable() in it"
        )


def _places(pid: int) -> dict[str, str]:
    """The variables of a process that say where a Python finds its libraries."""
    try:
        words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return {}
    pairs = dict(os.fsdecode(word).partition("=")[::2] for word in words)
    return {name: pairs[name] for name in _PLACES if name in pairs}


@contextlib.contextmanager
def _pipe(target: Target) -> Iterator[tuple[Path, int]]:
    """A folder that the target's user may use and nobody else, and the reading end of the pipe in it."""
    folder = Path(tempfile.mkdtemp(prefix="jitunwind-", dir="/tmp" if target.is_anothers else None))
    try:
        answer = folder / "answer"
        os.mkfifo(answer, 0o600)
        channel = os.open(answer, os.O_RDONLY | os.O_NONBLOCK)
        try:
            if target.is_anothers:
                os.chown(answer, target.user, target.group)
                os.chown(folder, target.user, target.group)
            yield folder, channel
        finally:
            os.close(channel)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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


def _script(what: str, answer: Path) -> str:
    """The text that the process executes: its user may not be able to read this package's files."""
    text = _REMOTE.read_text(encoding="utf-8")
    return f"{text}\nbegin({what!r}, {search_folders()!r}, {str(_FINDER)!r}, {str(answer)!r})\n"


def _meaning(asked: str, pid: int, said: bytes) -> Answer:
    """What the answer means: see `remote.py`. It is of the process's own making."""
    text = said.removeprefix(_BEGUN).partition(_END)[0].decode(errors="replace")
    word, what, hint, *_ = [*text.split("\n"), "", ""]
    if word == "failed":
        raise NotEnabled(f"process {pid} cannot {asked} publishing: {_plain(what)}", _plain(hint))
    if word == "off":
        return Answer(0, is_off=True)
    if word not in ("done", "already") or not (what.isascii() and what.isdigit()):
        raise NotEnabled(f"process {pid} answers nonsense")
    return Answer(int(what), already=word == "already")


def _plain(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)
