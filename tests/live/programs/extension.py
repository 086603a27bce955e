"""C code with known values in its callee-saved registers calls Python in JIT code, which calls C again.

The extension's folder is the program's argument.
"""

import sys

sys.path.insert(0, sys.argv[1])

import known_registers
from handshake import run_forever


def loop() -> int:
    total = 0
    for i in range(60):
        total += known_registers.innermost(i)
    return total


def work() -> int:
    return known_registers.outer(loop)


run_forever(work)
