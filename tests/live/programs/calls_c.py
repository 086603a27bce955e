"""A loop in JIT code that calls `id`: for breakpoints in C functions that JIT code calls."""

from handshake import run_forever


def work() -> int:
    total = 0
    for i in range(100):
        total += id(i) & 1
    return total


run_forever(work)
