"""What GDB sources: makes jitunwind importable in GDB's own Python, and starts the plugin.

GDB's Python is not the user's: its path must not gain the user's packages, which may be built for another
version. So a finder of our own gives jitunwind and what it needs, and nothing else, from where they are
(`SEARCH`, set by the line that `jitunwind gdb --print-init` prints; else next to this file).
"""

import importlib.machinery
import sys
from pathlib import Path

PACKAGES = ("jitunwind", "iced_x86")
HERE = Path(__file__).resolve().parents[2] if "__file__" in globals() else None


class Finder:
    """Finds `PACKAGES` in `search`, a list of folders."""

    def __init__(self, search):
        self.search = search

    def find_spec(self, name, path=None, target=None):
        if name in PACKAGES:
            return importlib.machinery.PathFinder.find_spec(name, self.search)
        return None


def start(search):
    import gdb

    if sys.version_info < (3, 11):
        version = ".".join(map(str, sys.version_info[:2]))
        raise gdb.GdbError(
            f"jitunwind: this GDB has Python {version}; 3.11 or later is needed (GDB 13.1 of Debian 12 has it)"
        )
    sys.meta_path.append(Finder(search))
    from jitunwind.gdbplugin import plugin

    plugin.install()


start(globals().get("SEARCH") or [str(HERE)])
