"""Finding a Python with a JIT for a program, and asking a Python what it is."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from jitunwind.errors import CannotStart
from jitunwind.jits.cpython.versions import NAMES, OLDEST, VERSIONS
from jitunwind.startup.launch import script_of

_OLDEST = f"CPython {NAMES[0]} or later"
_ASK = (
    "import sys; jit = getattr(sys, '_jit', None); "
    "print('Python', *sys.version_info[:3], bool(jit and jit.is_available()))"
)
_SAYS = re.compile(r"^Python (\d+) (\d+) (\d+) (True|False)$", re.MULTILINE)
"""One line: where `python` is a script of somebody's, that may say more."""
_PATIENCE_SECONDS = 30
_FIRST_LINE_BYTES = 256
"""As much as the kernel reads of it (BINPRM_BUF_SIZE, include/uapi/linux/binfmts.h)."""


class Python(NamedTuple):
    """A Python that can be run: its path, its version, whether it was built with a JIT, and where it was found."""

    path: str
    version: tuple[int, int, int]
    has_jit: bool
    found: str = ""

    @property
    def version_text(self) -> str:
        return ".".join(map(str, self.version))

    @property
    def warning(self) -> str:
        """What a user should know of such a CPython before it publishes; "" of a version that is known."""
        if self.version[:2] <= max(VERSIONS):
            return ""
        return (
            f"CPython {self.version_text} is not known here: its JIT code is published if its structure proves to be "
            f"that of {NAMES[-1]}, and jitunwind.problems() tells whether it did"
        )


def ask(path: str) -> Python:
    """What the program at `path` says of itself; it is run for that. CannotStart, if it is no Python."""
    command = [path, "-I", "-S", "-c", _ASK]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise CannotStart(f"{path} did not say within {_PATIENCE_SECONDS} s what it is") from None
    except OSError as error:
        raise CannotStart(f"{path} cannot be run: {error.strerror}") from None
    said = _SAYS.search(done.stdout.decode(errors="replace"))
    if said is None:
        raise CannotStart(f"{path} is no Python", f"name one with --python: {_OLDEST} has a JIT")
    return Python(path, (int(said[1]), int(said[2]), int(said[3])), said[4] == "True")


def find(arguments: Sequence[str]) -> Python:
    """The Python to run these arguments with: the first with a JIT of the script's own, `python3`, the one that
    jitunwind runs in, and the newest on PATH. CannotStart, if none has one."""
    tried: dict[str, str] = {}
    asked = set()
    for path, found in _candidates(arguments):
        place = os.path.dirname(path), os.path.realpath(path)  # a venv's Python is a link to another's
        if place in asked:
            continue
        asked.add(place)
        try:
            python = ask(path)
        except CannotStart:
            tried[path] = "no Python that runs"
            continue
        if python.has_jit:
            return python._replace(found=found)
        tried[path] = python.version_text
    seen = ", ".join(f"{path} ({what})" for path, what in tried.items())
    raise CannotStart(
        f"no Python with a JIT was found; without one are {seen}",
        f"name a {_OLDEST} that was built with its JIT: jitunwind run --python PYTHON ...",
    )


def _candidates(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    script = script_of(arguments)
    own = _of_first_line(script) if script is not None else None
    if own is not None:
        yield own, f"named in the first line of {script}"
    default = shutil.which("python3")
    if default is not None:
        yield default, "python3 on PATH"
    if sys.executable:
        yield sys.executable, "the one that jitunwind runs in"
    for path in _newest_first():
        yield path, "the newest with a JIT on PATH"


def _of_first_line(script: str) -> str | None:
    """The Python that a script's `#!` names: itself, or by way of env(1)."""
    try:
        with open(script, "rb") as file:
            line = os.fsdecode(file.read(_FIRST_LINE_BYTES).partition(b"\n")[0])
    except OSError:
        return None
    if not line.startswith("#!"):
        return None
    words = line[2:].split()
    if words and Path(words[0]).name == "env":
        words = [word for word in words[1:] if not word.startswith("-") and "=" not in word]
    if not words or not Path(words[0]).name.startswith("python"):
        return None
    return shutil.which(words[0])


def _newest_first() -> list[str]:
    """`python3.N` on PATH; of each the first, as a shell takes it."""
    found: dict[int, str] = {}
    for folder in os.get_exec_path():
        try:
            names = os.listdir(folder or ".")
        except OSError:
            continue
        for name in names:
            number = re.fullmatch(r"python3\.(\d+)", name)
            path = os.path.join(folder, name)
            if number and (3, int(number[1])) >= OLDEST and os.access(path, os.X_OK):
                found.setdefault(int(number[1]), path)
    return [found[number] for number in sorted(found, reverse=True)]
