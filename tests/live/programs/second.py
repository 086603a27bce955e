"""Computes for a second in a loop that calls C, which in the last third walks the stack: how many walks met JIT code,
and how many of those came to libc, which has called main.

Argument: a library whose `look(buffer, most, on)` calls backtrace() where `on` points to something else than 0.
"""

import ctypes
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import jitunwind

MOST = 200
ROUNDS = 200
SECONDS = 1.0


def compute(look: Callable[..., int], buffer: Any, is_on: Any) -> int:
    found = 0
    for _ in range(ROUNDS):
        found = look(buffer, MOST, is_on)
    return found


def executable(wanted: str) -> list[range]:
    """The executable memory of files whose path has that in it; of none, where it is empty."""
    found = []
    with open("/proc/self/maps") as file:
        for line in file:
            addresses, permissions, _, _, _, *path = line.split()
            if "x" in permissions and (wanted in path[0] if wanted and path else not wanted and not path):
                start, end = (int(address, 16) for address in addresses.split("-"))
                found.append(range(start, end))
    return found


def meets(walk: list[int], places: list[range]) -> bool:
    return any(address in place for address in walk for place in places)


def main() -> None:
    """All names are local: 3.14 drops code when a global one is set."""
    look = ctypes.PyDLL(
        sys.argv[1]
    ).look  # keeps the GIL: where a call lets go of it, new code is described sooner
    buffer = (ctypes.c_void_p * MOST)()
    on = ctypes.c_int(0)
    is_on = ctypes.byref(on)
    walks = []
    began = time.thread_time()
    while time.thread_time() - began < SECONDS * 2 / 3:
        compute(look, buffer, is_on)
    regions = jitunwind.statistics().regions
    on.value = 1
    while time.thread_time() - began < SECONDS:
        count = compute(look, buffer, is_on)
        walks.append([address or 0 for address in buffer[:count]])
    met = [walk for walk in walks if meets(walk, executable(""))]
    whole = [walk for walk in met if meets(walk, executable("/libc.so"))]
    print(json.dumps({"regions": regions, "walks": len(met), "whole": len(whole)}))


if __name__ == "__main__":
    main()
