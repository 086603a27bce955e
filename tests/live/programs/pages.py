"""Of the process that imports this: where JIT code is, and what of it is published."""

import sys
from pathlib import Path

PAGE = 4096


def jit_code() -> list[tuple[int, int]]:
    """Executable memory of no file."""
    found = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, permissions, _, _, inode, *name = line.split()
        if "x" in permissions and inode == "0" and not name:
            start, end = addresses.split("-")
            found.append((int(start, 16), int(end, 16)))
    return found


def published() -> list[int]:
    """The pages of JIT code that the agent knows."""
    if "jitunwind" not in sys.modules:
        return []
    from jitunwind.agent.library import loaded_agent

    knows = loaded_agent().knows
    return [page for start, end in jit_code() for page in range(start, end, PAGE) if knows(page)]
