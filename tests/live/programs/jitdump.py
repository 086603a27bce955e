"""Loops, in a process with a jitdump file, which is the argument: mapped, as perf wants it. Others fill it."""

import mmap
import sys

from handshake import run_forever

with open(sys.argv[1], "r+b") as file:
    marker = mmap.mmap(file.fileno(), 40, prot=mmap.PROT_READ | mmap.PROT_EXEC, flags=mmap.MAP_PRIVATE)


def work() -> int:
    total = 0
    for i in range(40):
        total += i & 7
    return total


run_forever(work)
