"""Makes jitunwind importable in a Python that is not the user's: GDB's own, or the one of a program.

That Python's path must not gain the user's packages, which may be built for another version. So a finder gives
jitunwind and what it needs, and nothing else. This file is run by its path, as nothing can be imported yet;
`install` is what it is run for.
"""

import importlib.machinery
import sys

TYPE_CHECKING = False
"""Here, as `typing` takes a while to import."""
if TYPE_CHECKING:
    import types

FIRST = ("jitunwind",)
"""Packages that are taken from here in any case."""
LAST = ("iced_x86",)
"""Packages that are taken from here where that Python has none of its own; they work in every version from 3.11."""


class Parts:
    """Loads iced-x86, whose spec it is made of, without its `__init__`. That imports some thirty modules of constants,
    where we need six. Each module costs a computing program some ten turns of the GIL, and GDB a millisecond.

    What is asked for is a module of constants, or comes from the module in Rust that all of it is about.
    """

    _RUST = "_iced_x86_py"

    def __init__(self, spec: importlib.machinery.ModuleSpec) -> None:
        assert spec.loader is not None
        self._whole = spec.loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: "types.ModuleType") -> None:
        try:
            rust = importlib.import_module(f"{module.__name__}.{self._RUST}")
        except ImportError:  # another version
            self._whole.exec_module(module)
            return

        def part(name: str) -> object:
            if not name.startswith("__"):
                try:  # first: some classes in Rust have the name of such a module
                    return importlib.import_module(f"{module.__name__}.{name}")
                except ImportError:
                    if hasattr(rust, name):
                        return getattr(rust, name)
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

        module.__dict__["__getattr__"] = part


class Finder:
    """Finds `packages` in `search`, a list of folders."""

    is_jitunwinds = True

    def __init__(self, packages: tuple[str, ...], search: list[str]) -> None:
        self.packages = packages
        self.search = search

    def find_spec(
        self, name: str, path: object = None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in self.packages:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, self.search)
        if spec is not None and name in LAST:
            spec.loader = Parts(spec)  # type: ignore[assignment]  # importlib.abc takes a while to import, too
        return spec


def install(search: list[str]) -> None:
    """Have the packages found in `search`, a list of folders; a second time replaces the first."""
    others = [finder for finder in sys.meta_path if not hasattr(finder, "is_jitunwinds")]
    sys.meta_path[:] = [Finder(FIRST, search), *others, Finder(LAST, search)]
