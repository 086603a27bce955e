"""C code that JIT code has called longjmps over it, many times. The extension's folder is the argument."""

import sys

sys.path.insert(0, sys.argv[1])

import leaps
from handshake import warm


def loop() -> int:
    total = 0
    for i in range(limit[0]):
        total += leaps.back(i)
    return total


def over_and_over() -> None:
    """In a function: a global that changes would have the JIT drop the loop's code."""
    for _ in range(120):
        assert leaps.leap(loop) is True


limit = [8]
warm(loop, 1000)
limit[0] = 12
over_and_over()
print("all is well", flush=True)
