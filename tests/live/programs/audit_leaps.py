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


limit = [30]
warm(loop, 500)
limit[0] = 40
for _ in range(400):
    assert leaps.leap(loop) is True
print("all is well", flush=True)
