"""Three threads, each waiting in a hot loop of its own; the main one on standard input.

Each gets warm alone: the main one waits for a byte before it starts the next.
"""

import os
import threading

from waiting import begin, take

WARM = 8000


def second(fd):
    while True:
        take(fd)


def third(fd):
    total = 0
    while True:
        total += take(fd)


def first(fd):
    total = 1
    while True:
        total ^= take(fd)


begin()
for work in (second, third):
    read, write = os.pipe()
    os.write(write, b"w" * WARM)
    threading.Thread(target=work, args=(read,), name=work.__name__, daemon=True).start()
    take(0)
first(0)
