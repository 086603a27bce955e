"""JIT code that calls getpgid, and more and more other JIT code, each time published before it goes on."""

import os
from collections.abc import Callable
from typing import Any

from handshake import ready

import jitunwind

FUNCTION = """
def f(n):
    total = 0
    for i in range(n):
        total += i * i & 7
    return total
"""
WARM = 6000


def make() -> Callable[[int], int]:
    space: dict[str, Any] = {}
    exec(FUNCTION, space)
    space["f"](WARM)
    return space["f"]  # type: ignore[no-any-return]


def calls(rounds: int) -> None:
    getpgid = os.getpgid
    for _ in range(rounds):
        getpgid(0)


calls(3 * WARM)
jitunwind.flush()
ready()
made = []
while True:
    calls(300)
    made.append(make())
    jitunwind.flush()
