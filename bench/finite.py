"""A program that ends: much JIT code, of many functions put together by chance, and then a fixed amount of work.

Arguments: how many functions, how many statements each, how many rounds of work. At its end it writes the time
to stderr.
"""

import collections
import itertools
import runpy
import signal
import sys
import time
import types
from pathlib import Path

VARIED = Path(__file__).resolve().parents[1] / "tests/live/programs/varied.py"


def warm(work, rounds):
    collections.deque(itertools.starmap(work, itertools.repeat((), rounds)), maxlen=0)


def weigh(number):
    total = 0
    for i in range(number):
        total += i * i & 7
    return total


*functions, rounds = sys.argv[1:]
# The program is not waited for, and does not wait.
sys.modules["handshake"] = types.SimpleNamespace(ready=int, warm=warm)
signal.pause = int
sys.argv[1:] = functions
runpy.run_path(str(VARIED))
for i in range(int(rounds)):
    max(range(20 + i % 20), key=weigh)
print(time.time(), file=sys.stderr)
