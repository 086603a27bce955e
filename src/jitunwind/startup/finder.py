"""Makes jitunwind importable in a Python that is not the user's: GDB's own, or the one of a program.

That Python's path must not gain the user's packages, which may be built for another version. So a finder gives
jitunwind and what it needs, and nothing else. This file is run by its path, as nothing can be imported yet;
`install` is what it is run for.
"""

import importlib.machinery
import sys

FIRST = ("jitunwind",)
"""Packages that are taken from here in any case."""
LAST = ("iced_x86",)
"""Packages that are taken from here where that Python has none of its own; they work in every version from 3.11."""


class Finder:
    """Finds `packages` in `search`, a list of folders."""

    is_jitunwinds = True

    def __init__(self, packages: tuple[str, ...], search: list[str]) -> None:
        self.packages = packages
        self.search = search

    def find_spec(
        self, name: str, path: object = None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name in self.packages:
            return importlib.machinery.PathFinder.find_spec(name, self.search)
        return None


def install(search: list[str]) -> None:
    """Have the packages found in `search`, a list of folders; a second time replaces the first."""
    others = [finder for finder in sys.meta_path if not hasattr(finder, "is_jitunwinds")]
    sys.meta_path[:] = [Finder(FIRST, search), *others, Finder(LAST, search)]
