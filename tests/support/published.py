"""Runs a program that has its JIT code published: `PYTHON published.py PROGRAM [ARGUMENT…]`.

The interpreter that runs this needs nothing installed: jitunwind comes from this checkout, or from the folder that
JITUNWIND_TEST_SOURCE names, and what it imports from the environment of the tests, whose folder of packages is named
in JITUNWIND_TEST_PACKAGES; nothing else does.
"""

import os
import runpy
import sys
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

HERE = {
    "jitunwind": os.environ.get("JITUNWIND_TEST_SOURCE") or str(Path(__file__).parents[2] / "src"),
    "iced_x86": os.environ["JITUNWIND_TEST_PACKAGES"],
}


class Finder:
    """Finds the packages of `HERE`."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: ModuleType | None = None) -> ModuleSpec | None:
        return PathFinder.find_spec(name, [HERE[name]]) if name in HERE else None


if __name__ == "__main__":
    sys.meta_path.append(Finder)  # type: ignore[arg-type]
    import jitunwind

    jitunwind.enable()
    del sys.argv[0]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
