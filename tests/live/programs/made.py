"""Functions that are compiled as soon as they are made."""

from collections.abc import Callable
from typing import Any

FUNCTION = """
def f(n):
    total = 0
    for i in range(n):
        total += i * i & 7
        if total > 1000:
            total -= 999
    return total
"""
WARM = 6000


def make() -> Callable[[int], int]:
    """A function that has an executor of its own."""
    space: dict[str, Any] = {}
    exec(FUNCTION, space)
    space["f"](WARM)
    return space["f"]  # type: ignore[no-any-return]
