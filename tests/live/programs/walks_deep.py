"""Recursion ten deep through C and JIT code; the innermost call has all published, and calls backtrace() by ctypes.

It prints, as JSON, the program counters of a walk before there is JIT code, those of that walk, and how many of the
second are in published code.
"""

import ctypes
import json
import operator
import sys

from handshake import publish_all, warm

MOST, DEPTH = 200, 10
walk = ctypes.CDLL(None).backtrace
armed: list[bool] = []
"""A list: to set a module's variable makes CPython compile anew."""


def backtrace() -> list[int]:
    pcs = (ctypes.c_void_p * MOST)()
    return [pc or 0 for pc in pcs[: walk(pcs, MOST)]]


def innermost() -> int:
    if armed:
        publish_all()
        found.append(backtrace())
    return 0


def f(n: int) -> int:
    total = 0
    for i in range(30):
        total += i
        if i == 20:
            total += operator.call(f, n - 1) if n else innermost()
    return total


found = [backtrace()]
warm(lambda: f(DEPTH), 400)
publish_all()
armed.append(True)
f(DEPTH)
knows = (
    sys.modules["jitunwind.agent.library"].loaded_agent().knows
    if "jitunwind" in sys.modules
    else lambda pc: False
)
print(json.dumps([*found, sum(map(knows, found[1]))]))
