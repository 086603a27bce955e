"""Once the file `go` is in its directory, sets and removes a trace function below running JIT code, which
invalidates every executor; then calls `id` from there, with the invalidated code still on the stack."""

import os
import sys
from collections.abc import Callable

from handshake import ready, warm

MIDDLE = 25


def nothing(value: int) -> int:
    return value


def invalidate(value: int) -> int:
    if value != MIDDLE:  # JIT code has long been entered then
        return value
    sys.settrace(lambda *event: None)
    sys.settrace(None)
    return id(value)


def work(key: Callable[[int], int] = nothing) -> int:
    total = 0
    for i in range(50):
        total += max((i, 2), key=key)
    return total


warm(work, 400)
ready()
while not os.path.exists("go"):
    work()
while True:
    work(invalidate)
