"""Invalidates all executors from below one that runs, which no list has then; there it reads stdin."""

import collections
import itertools
import os
import sys

from waiting import begin

ROUND = 50
CALLS = 60_025


def invalidate(value: int) -> int:
    global calls
    calls += 1
    if calls == CALLS:
        sys.settrace(lambda *event: None)
        sys.settrace(None)
        os.read(0, 1)
    return value


def work() -> int:
    total = 0
    for i in range(ROUND):
        total += max((i, 2), key=invalidate)
    return total


calls = 0
begin()
collections.deque(itertools.starmap(work, itertools.repeat((), CALLS // ROUND + 1)), maxlen=0)
