"""Three interpreters: the main one in JIT code, two others in threads of their own.

CPython 3.14 and 3.15 switch the JIT on in the main interpreter only; the others are in the list of
interpreters that a debugger walks.
"""

import threading
from concurrent import interpreters

from handshake import run_forever

OTHER = """
import collections, itertools

def other():
    total = 0
    for i in range(200):
        total = total * 3 + i & 0xFFFF
    return total

collections.deque(itertools.starmap(other, itertools.repeat(())), maxlen=0)
"""


def work() -> int:
    total = 0
    for i in range(100):
        total += id(i) & 1
    return total


for _ in range(2):
    threading.Thread(target=interpreters.create().exec, args=(OTHER,), daemon=True).start()
run_forever(work)
