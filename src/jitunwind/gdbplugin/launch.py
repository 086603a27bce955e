"""Starting a GDB with the plugin: which GDB, and the line that loads the plugin there.

The one module of this folder that runs outside GDB, in the user's Python.
"""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

from jitunwind.errors import GdbMissing

PLUGIN = "jitunwind.gdbplugin.plugin"
STACK = "jitunwind.gdbplugin.stack"
LOAD = Path(__file__).with_name("load.py")


def find_gdb(named: str | None = None) -> str:
    """The path of the GDB to run: `named`, $JITUNWIND_GDB, the one on PATH, or the one installed beside this
    Python (`pip install 'jitunwind[gdb]'`). GdbMissing, if there is none."""
    wanted = named or os.environ.get("JITUNWIND_GDB")
    if wanted:
        found = shutil.which(wanted)
        if found is None:
            raise GdbMissing(f"{wanted} is no program that can be run")
        return found
    beside = Path(sys.executable).with_name("gdb")
    path = shutil.which("gdb") or (str(beside) if os.access(beside, os.X_OK) else None)
    if path is None:
        raise GdbMissing("there is no gdb on this machine's PATH")
    return path


def search_folders() -> list[str]:
    """The folders that hold jitunwind and iced-x86, for GDB's Python."""
    folders = [str(LOAD.parents[2])]
    iced = importlib.util.find_spec("iced_x86")
    if iced is not None and iced.origin is not None:
        folders.append(str(Path(iced.origin).parents[1]))
    return list(dict.fromkeys(folders))


def load_line(start: str = PLUGIN) -> str:
    """The GDB command that loads the plugin, or another part of it that has an `install()`."""
    names = {"SEARCH": search_folders(), "START": start}
    return f"python import runpy; runpy.run_path({str(LOAD)!r}, {names!r})"
