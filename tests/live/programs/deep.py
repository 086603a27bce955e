"""Recursion through C: each call of `f` is made by a C function (`operator.call`) that JIT code calls."""

import operator

from handshake import run_forever


def f(n: int) -> int:
    total = 0
    for i in range(3):
        total += i
        if n and i == 1:
            total += operator.call(f, n - 1)
    return total


def work() -> int:
    return f(10)


run_forever(work)
