"""Python through C to Python, over and over: __getattr__, max's key, map, sum, generators.

Each loop's last rounds run in JIT code, so several activations are on one stack, with C in between.
"""

import functools

from waiting import begin, take

ROUNDS = 5


def innermost(fd):
    total = 0
    for _ in range(ROUNDS):
        total += take(fd)
    return total


def numbers(fd):
    for _ in range(ROUNDS):
        yield innermost(fd)


def delegate(fd):
    yield from numbers(fd)


def through_sum(fd):
    total = 0
    for _ in range(ROUNDS):
        total += sum(delegate(fd))
    return total


def through_map(depth, fd):
    total = 0
    inner = functools.partial(through_map, depth - 1) if depth else through_sum
    for _ in range(2):
        for value in map(inner, [fd]):
            total += value
    return total


class Dynamic:
    def __getattr__(self, name):
        return max([0], key=lambda fd: through_map(1, fd))


def main():
    dynamic = Dynamic()
    total = 0
    while True:
        total ^= dynamic.anything


begin()
main()
