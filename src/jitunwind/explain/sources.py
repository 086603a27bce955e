"""Lines of Python source files, for a reader of machine code.

In comes a file and a line number, as a process gives them; out comes the line's text, or None. The process may
name any file: only those are read that it could read itself, by its owner or because everybody may.
"""

import os
import stat
from pathlib import Path

_LARGEST_FILE = 1 << 23
_LONGEST_LINE = 400
_MOST_FILES = 1000


class Sources:
    """Source files as they are now, on this machine, for a process of the user `owner`."""

    def __init__(self, owner: int) -> None:
        self._owner = owner
        self._lines: dict[str, list[str]] = {}

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
            with open(filename, "rb", opener=_opener) as stream:
                status = os.fstat(stream.fileno())
                readable = status.st_mode & stat.S_IROTH or status.st_uid == self._owner
                if not stat.S_ISREG(status.st_mode) or not readable:
                    return []
                return stream.read(_LARGEST_FILE).decode("utf-8", "replace").splitlines()
        except (OSError, ValueError):  # not here; a name that can be none
            return []


def _opener(path: str, flags: int) -> int:
    """What is no file is not waited for, and does not become the controlling terminal."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


def owner_of(path: Path) -> int:
    """The user that a process (its folder in /proc) or a core belongs to. OSError."""
    return path.stat().st_uid
