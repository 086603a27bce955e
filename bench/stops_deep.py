"""Recursion through C, as deep as its argument says; prints "ready" at the bottom, and runs on there for ever."""

import operator
import sys


def descend(depth):
    total = 0
    for number in range(40):
        total += number
        if number == 39 and depth:
            total += operator.call(descend, depth - 1)
    if not depth:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            total = (total + 1) & 0xFFFF
    return total


sys.setrecursionlimit(1_000_000)
descend(int(sys.argv[1]))
