"""What GDB sources: makes jitunwind importable in GDB's own Python, and starts a part of the plugin.

GDB's Python is not the user's. A finder of our own gives jitunwind and what it needs from the folders in `SEARCH`
(set by whoever runs this file; else where this file is). `START` is the module to start, `GUARDIAN` the eventfd of
`guardian.guard_this_process`, if there is one.
"""

import contextlib
import importlib
import os
import re
import runpy
import sys

PACKAGE = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
FINDER = os.path.join(PACKAGE, "startup/finder.py")
OLDEST_PYTHON = (3, 11)
OLDEST_GDB = 13


def start(search: list[str], module: str) -> None:
    import gdb

    major = re.search(r"(\d+)\.\d", gdb.VERSION)
    if major is not None and int(major[1]) < OLDEST_GDB:
        raise gdb.GdbError(f"jitunwind: this is GDB {gdb.VERSION}; {OLDEST_GDB} or later is needed")
    if sys.version_info[:2] < OLDEST_PYTHON:
        found, wanted = (".".join(map(str, version)) for version in (sys.version_info[:2], OLDEST_PYTHON))
        raise gdb.GdbError(f"jitunwind: this GDB has Python {found}; {wanted} or later is needed")
    runpy.run_path(FINDER)["install"](search)
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, False  # compile once, not at each start of GDB
    try:
        part = importlib.import_module(module)
    finally:
        sys.dont_write_bytecode = before
    part.install()


def tell_ending(guardian: int) -> None:
    """Set `guardian`, an eventfd(2), when GDB ends by itself, and not by a signal that kills it."""
    import gdb

    def tell(event: object) -> None:
        with contextlib.suppress(OSError):
            os.eventfd_write(guardian, 1)

    os.set_inheritable(guardian, False)
    gdb.events.gdb_exiting.connect(tell)


if "GUARDIAN" in globals():
    tell_ending(globals()["GUARDIAN"])
start(
    globals().get("SEARCH") or [os.path.dirname(PACKAGE)],
    globals().get("START", "jitunwind.gdbplugin.plugin"),
)
