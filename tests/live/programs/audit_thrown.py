"""C code that JIT code has called throws a C++ exception through it, many times. The extension's folder is the
argument."""

import sys

sys.path.insert(0, sys.argv[1])

import thrown
from handshake import warm


def loop() -> int:
    total = 0
    for i in range(limit[0]):
        total += thrown.back(i)
    return total


def over_and_over() -> None:
    """In a function: a global that changes would have the JIT drop the loop's code."""
    for _ in range(120):
        assert thrown.hold(loop) is True


limit = [8]
warm(loop, 1000)
print("now it throws", flush=True)
limit[0] = 12
over_and_over()
print("all is well", flush=True)
