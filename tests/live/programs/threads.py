"""Three threads, each in JIT code of its own and in shared JIT code."""

import sys
import threading

from handshake import run_forever, warm


def shared(n: int) -> int:
    total = 0
    for i in range(n):
        total = total * 3 + i & 0xFFFF
    return total


def first() -> int:
    total = 0
    for i in range(50):
        total += i & 3
    return total + shared(40)


def second() -> float:
    x = 1.0
    for _ in range(50):
        x = x * 0.5 + 1.0
    return x + shared(30)


def third() -> int:
    found = {}
    for i in range(50):
        found[i & 7] = i
    return len(found) + shared(20)


def repeat(work) -> None:
    from collections import deque
    from itertools import repeat, starmap

    deque(starmap(work, repeat(())), maxlen=0)


sys.setswitchinterval(0.0005)
for work in (first, second, third):
    warm(work, 400)
for work in (second, third):
    threading.Thread(target=repeat, args=(work,), daemon=True).start()
run_forever(first, settles=False)  # 3.14 goes on compiling for threads that compete for the GIL
