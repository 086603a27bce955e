"""Says `ready`, and then does what it is told: runs a hot loop for ever, or waits in read(2).

Each byte on standard input ends a read and is answered with `done`; the end of the input ends the program.
"""

import os
import signal
import sys

LONGEST_LIFE = 600


def work(rounds: int) -> int:
    total = 0
    for i in range(rounds):
        total += i * i & 7
    return total


signal.alarm(LONGEST_LIFE)
work(10_000)
print("ready", flush=True)
if sys.argv[1] == "hot":
    while True:
        work(10**6)
while os.read(0, 1):
    work(10_000)
    print("done", flush=True)
