"""Where the debug files of an interpreter are, which have the names of its static functions; and what brings them."""

import os
import re
from collections.abc import Iterable, Sequence

_USUAL = "/usr/lib/debug"
_INTERPRETER = re.compile(r"python3\.\d+")
"""What an interpreter is called, and its packages on Debian and Fedora begin with."""


def debug_folders(named: Sequence[str], programs: Iterable[str]) -> list[str]:
    """The folders `named`, those of the installations that `programs` belong to, and the usual one; in this order."""
    own = [os.path.join(os.path.dirname(os.path.dirname(program)), "lib/debug") for program in programs]
    return list(dict.fromkeys([*map(os.path.abspath, named), *filter(os.path.isdir, [*own, _USUAL])]))


def what_to_install(program: str) -> str:
    """What brings the debug files of the interpreter at `program`, or of a program that has one in it: as this
    distribution has it, where that is where the interpreter is from."""
    name = os.path.basename(program)
    if name.startswith("libpython"):
        name = name.partition(".so")[0].removeprefix("lib")
    if not _INTERPRETER.fullmatch(name):
        return f"install the debug symbols of {name}"
    debian, fedora = f"apt-get install {name}-dbg", f"dnf debuginfo-install {name}"
    if program.startswith(("/usr/bin/", "/usr/lib")) and os.path.isfile(program):
        known = _distribution()
        if "debian" in known:
            return debian
        if "fedora" in known:
            return fedora
    return f"install the debug symbols of {name} (Debian: {name}-dbg; Fedora: {fedora})"


def _distribution() -> list[str]:
    """Its name and those of what it is made from (os-release(5))."""
    import platform  # needed when something is missing

    try:
        said = platform.freedesktop_os_release()
    except OSError:
        return []
    return [said.get("ID", ""), *said.get("ID_LIKE", "").split()]
