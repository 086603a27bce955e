"""The versions of CPython whose JIT is known: a module with a record for each.

docs/adding-a-cpython-version.md says how one is added. The Makefile takes its versions from the names of the modules,
tests and tools take them from NAMES.
"""

from typing import Literal

from jitunwind.jits.cpython.versions import py314, py315
from jitunwind.jits.cpython.versions.record import ExecutorLayout, Registration, Version

__all__ = ["NAMES", "OLDEST", "VERSIONS", "ExecutorLayout", "Registration", "Version", "in_words"]

VERSIONS: dict[tuple[int, int], Version] = {
    version.number: version for version in (py314.VERSION, py315.VERSION)
}
"""By (major, minor), the oldest first."""
NAMES = tuple(f"{major}.{minor}" for major, minor in VERSIONS)
"""Such as "3.14"."""
OLDEST = min(VERSIONS)


def in_words(last: Literal["and", "or"]) -> str:
    """For people: "3.14 and 3.15"."""
    return f"{', '.join(NAMES[:-1])} {last} {NAMES[-1]}"
