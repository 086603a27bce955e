"""Lines of Python source files, for a reader of machine code.

In comes a file and a line number, as a process gives them; out comes the line's text, or None. The process may
name any file: only those are read that it could read itself, by its owner or because everybody may. A live process
may have mounts, or a root, of its own: names mean what they mean to it.
"""

import contextlib
import os
import stat
import time
from pathlib import Path

_LARGEST_FILE = 1 << 23
_LONGEST_LINE = 400
_MOST_FILES = 1000
_MOST_LINKS = 40
"""As the kernel has it (path_resolution(7))."""
_TOLERANCE = 1.0
"""Seconds: the clocks of files and of processes tick apart."""


class Sources:
    """Source files as they are now, for a process of the user `owner` whose root directory is `root`. `since`: when
    the process was begun, or its core written (seconds since the epoch); `newer` lists files changed after that."""

    def __init__(self, owner: int, root: str = "/", since: float | None = None) -> None:
        self._owner, self._root, self._since = owner, root, since
        self._lines: dict[str, list[str]] = {}
        self.newer: list[str] = []

    def line(self, filename: str, number: int) -> str | None:
        """The text of a line without its indentation's end; None where the file is not here, or has no such
        line."""
        if filename not in self._lines:
            if len(self._lines) >= _MOST_FILES:
                return None
            self._lines[filename] = self._read(filename)
        lines = self._lines[filename]
        return lines[number - 1].rstrip()[:_LONGEST_LINE] if 0 < number <= len(lines) else None

    def _read(self, filename: str) -> list[str]:
        if not os.path.isabs(filename):
            return []
        try:
            path = filename if self._root == "/" else _below(self._root, filename)
            with open(path, "rb", opener=_opener) as stream:
                status = os.fstat(stream.fileno())
                readable = status.st_mode & stat.S_IROTH or status.st_uid == self._owner
                if not stat.S_ISREG(status.st_mode) or not readable:
                    return []
                if self._since is not None and status.st_mtime > self._since + _TOLERANCE:
                    self.newer.append(filename)
                return stream.read(_LARGEST_FILE).decode("utf-8", "replace").splitlines()
        except (OSError, ValueError):  # not here; a name that can be none
            return []


def sources_of(pid: int) -> Sources:
    """For a live process. OSError where it has gone."""
    return Sources(owner_of(Path(f"/proc/{pid}")), f"/proc/{pid}/root", _begun(pid))


def sources_of_core(core: Path) -> Sources:
    """For the process that left it. OSError."""
    return Sources(owner_of(core), since=core.stat().st_mtime)


def _below(root: str, filename: str) -> str:
    """The file that a process with that root directory calls `filename`: the kernel would follow absolute links from
    our root. OSError."""
    left = [part for part in filename.split("/") if part]
    found: list[str] = []
    links = 0
    while left:
        part = left.pop(0)
        if part == "..":
            found = found[:-1]
        elif part != ".":
            path = "/".join([root, *found, part])
            target = ""
            with contextlib.suppress(OSError):
                target = os.readlink(path)
            if not target:
                found.append(part)
                continue
            links += 1
            if links > _MOST_LINKS:
                raise OSError(f"{filename}: too many symbolic links")
            left = [each for each in target.split("/") if each] + left
            found = [] if target.startswith("/") else found
    return "/".join([root, *found])


def _begun(pid: int) -> float | None:
    """When the process was begun, in seconds since the epoch; None where that cannot be read. Field 22 of
    /proc/PID/stat counts clock ticks from the machine's start (proc(5))."""
    try:
        ticks = int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")


def _opener(path: str, flags: int) -> int:
    """What is no file is not waited for, and does not become the controlling terminal."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


def owner_of(path: Path) -> int:
    """The user that a process (its folder in /proc) or a core belongs to. OSError."""
    return path.stat().st_uid
