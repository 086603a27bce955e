"""C code that JIT code has called walks the stack, writes what it found, and waits with the stack as it is.

Arguments: the folder of the extension `walker`, and the file for the frames.
"""

import sys

sys.path.insert(0, sys.argv[1])

import walker
from handshake import ready, warm


def loop() -> int:
    total = 0
    for i in range(60):
        total += walker.look(i)
    return total


def work() -> int:
    return walker.hold(loop)


warm(work, 400)
ready()
walker.arm(sys.argv[2])
work()
