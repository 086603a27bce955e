"""Nested loops over small integers: the plainest of JIT code."""

from handshake import run_forever


def work() -> int:
    total = 0
    for i in range(12):
        j = 0
        while j < 10:
            total += i * j & 7
            if total & 64:
                total ^= 21
            j += 1
    return total


run_forever(work)
