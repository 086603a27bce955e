"""Starting a GDB with the plugin: which GDB, and the line that loads the plugin there.

Runs outside GDB, in the user's Python, as `backtrace` and `guardian` do.
"""

import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jitunwind.errors import GdbMissing
from jitunwind.startup.launch import search_folders

if TYPE_CHECKING:  # the command line starts faster without it
    from jitunwind.arch import Architecture

PLUGIN = "jitunwind.gdbplugin.plugin"
STACK = "jitunwind.gdbplugin.stack"
LOAD = Path(__file__).with_name("load.py")
OLDEST_GDB = 13
OLDEST_PYTHON = (3, 11)
_VERSION = re.compile(r"^GNU gdb .*?\b(\d+)((?:\.\d+)+)\S*$", re.MULTILINE)
"""The last word of the line: `GNU gdb (Debian 13.1-3) 13.1`."""
_ASK_PYTHON = "python import sys; print('python', *sys.version_info[:2])"
_PATIENCE_SECONDS = 60


def find_gdb(named: str | None = None, arch: "Architecture | None" = None) -> str:
    """The path of the GDB to run: `named`, $JITUNWIND_GDB, the one on PATH, or the one installed beside this
    Python (`pip install gdb-for-pwndbg`); for an `arch` of another machine one of them, or gdb-multiarch, that knows
    it. GdbMissing, if there is none."""
    foreign = arch if arch is not None and arch.name != os.uname().machine else None
    wanted = named or os.environ.get("JITUNWIND_GDB")
    if wanted:
        found = shutil.which(wanted)
        if found is None:
            source = "--gdb" if named else "JITUNWIND_GDB"
            raise GdbMissing(f"{source} {wanted}: that is no program that can be run")
        if foreign is not None and not _knows(found, foreign):
            raise GdbMissing(f"{found} does not know {foreign.name}", _MULTIARCH)
        return found
    beside = Path(sys.executable).with_name("gdb")
    found = shutil.which("gdb") or (str(beside) if os.access(beside, os.X_OK) else None)
    if foreign is not None:
        several = dict.fromkeys(filter(None, (found, shutil.which("gdb-multiarch"), str(beside))))
        known = next((each for each in several if _knows(each, foreign)), None)
        if known is None:
            raise GdbMissing(f"there is no GDB that knows {foreign.name} on this machine's PATH", _MULTIARCH)
        return known
    if found is None:
        raise GdbMissing("there is no gdb on this machine's PATH")
    return found


_MULTIARCH = "install gdb-multiarch (Debian's name) or pip install gdb-for-pwndbg, or name one with --gdb"


def _knows(gdb: str, arch: "Architecture") -> bool:
    """Whether that GDB can look at programs of an architecture."""
    ask = f"python import gdb; print('knows', {arch.bfd_name!r} in gdb.architecture_names())"
    return "knows True" in _say(gdb, "-nx", "-batch", "-ex", ask)


def why_unfit(gdb: str) -> str | None:
    """Why the plugin cannot work in that GDB; None where it can. It takes a start of GDB, 0.1 s."""
    said = _say(gdb, "-nx", "-batch", "-ex", "show version", "-ex", _ASK_PYTHON)
    version = _VERSION.search(said)
    if version is None:
        return f"{gdb} is no GDB that works: it does not say its version"
    text = version[1] + version[2]
    if int(version[1]) < OLDEST_GDB:
        return f"{gdb} is GDB {text}; {OLDEST_GDB} or later is needed"
    python = re.search(r"^python (\d+) (\d+)$", said, re.MULTILINE)
    if python is None:
        return f"{gdb} (GDB {text}) has no Python"
    if (int(python[1]), int(python[2])) < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        return f"{gdb} (GDB {text}) has Python {python[1]}.{python[2]}; {oldest} or later is needed"
    return None


def _say(*command: str) -> str:
    """What a command prints; nothing, where it cannot be run or does not end."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def attached_to(arguments: Sequence[str]) -> list[int]:
    """The processes that GDB attaches to, given these arguments: `-p 1`, `--pid=1`, `python 1`, `-ex 'attach 1'`."""
    found: dict[int, None] = {}
    for before, argument in itertools.pairwise(["", *arguments]):
        if argument in ("-args", "--args"):
            break
        process = _PROCESS.search(argument)
        if process is not None and before not in _NUMBERED:
            found[int(process[1])] = None
    return list(found)


_PROCESS = re.compile(r"(?:^|^--?p(?:id)?=|(?:^|=)\s*att?(?:a|ac|ach)?\s+)([0-9]+)\s*$")
_NUMBERED = ("-b", "-l")
"""GDB's options whose value is a number, and no process."""


def load_line(start: str = PLUGIN, guardian: int | None = None) -> str:
    """The GDB command that loads the plugin, or another part of it that has an `install()`. `guardian`: the
    eventfd of `guard_this_process`."""
    names: dict[str, object] = {"SEARCH": search_folders(), "START": start}
    if guardian is not None:
        names["GUARDIAN"] = guardian
    return f"python import runpy; runpy.run_path({str(LOAD)!r}, {names!r})"
