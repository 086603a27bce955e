"""Recordings made by hand, with names as hostile as a process can make them."""

import random

from jitunwind.profile.recording import Frame, Kind, Origin, Recording

HOSTILE = "</script><img src=x onerror=window.broken=1>;\n\x1b[31m\u202e$x"
MAIN = Frame(Kind.NATIVE, "main", module="/usr/bin/python3.15")
MODULE = Frame(Kind.PYTHON, "<module>", "/tmp/hot.py", 9)
HOT = Frame(Kind.JIT, "hot", "/tmp/hot.py", 3)
HOT_ELSEWHERE = Frame(Kind.JIT, "hot", "/tmp/hot.py", 4)
COLD = Frame(Kind.PYTHON, HOSTILE, "/tmp/pkg/__init__.py", 7)
WRITE = Frame(Kind.NATIVE, "libc.so.6+0x1234", module="/usr/lib/libc.so.6", is_named=False)
KERNEL = Frame(Kind.KERNEL, "sys_write")
STACKS = (
    ((MAIN, MODULE, HOT), 5),
    ((MAIN, MODULE, HOT_ELSEWHERE), 3),
    ((MAIN, MODULE, HOT, WRITE), 2),
    ((MAIN, MODULE, COLD), 4),
    ((MAIN, MODULE, COLD, WRITE, KERNEL), 1),
)
WEIGHT = sum(weight for _, weight in STACKS)
"""Of all stacks, in each of two threads; the second has a sample of weight 2 besides."""


def origin() -> Origin:
    return Origin(4711, f"python {HOSTILE}", 0.01, "jitunwind", "3.15.2", True, 1796131330.0, 0.4)


def recording() -> Recording:
    """Two threads with the same stacks, one after the other, and one heavier sample."""
    made = Recording(origin())
    made.counts.moments = 40
    time = 0.0
    for tid in (4711, 4712):
        thread = made.thread(tid, f"worker {HOSTILE}" if tid == 4712 else "python")
        for frames, count in STACKS:
            stack = made.stack(tuple(map(made.frame, frames)))
            for _ in range(count):
                made.add(time, thread, stack)
                time += 0.01
    made.add(time, thread, made.stack((made.frame(MAIN),)), 2)
    return made


def large(samples: int, functions: int = 400, deep: int = 40) -> Recording:
    """Of so many samples, with some thousands of stacks."""
    chance = random.Random(4)
    made = Recording(origin())
    thread = made.thread(1, "main")
    frames = [
        made.frame(Frame(chance.choice(list(Kind)), f"function_{number}", f"/tmp/m{number % 20}.py"))
        for number in range(functions)
    ]
    stacks = []
    for _ in range(5000):
        begin = stacks[-1][: chance.randrange(deep)] if stacks else ()
        stacks.append((*begin, *chance.choices(frames, k=chance.randrange(1, deep - len(begin) + 1))))
    indices = [made.stack(stack) for stack in stacks]
    for number in range(samples):
        made.add(number / 100, thread, chance.choice(indices))
    return made
