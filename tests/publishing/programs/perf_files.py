"""What becomes of the files for perf in the life of a process: `perf_files.py jitdump|map COURSE`.

Each course publishes regions, and prints one line of JSON. The code is in memory of the process, and never run.
"""

import ctypes
import fcntl
import json
import mmap
import os
import resource
import sys
from pathlib import Path
from typing import Any

from jitunwind import Line, Region, UnwindTable, publish, statistics
from jitunwind.agent.library import JITDUMP, PERF_MAP, loaded_agent
from jitunwind.arch.known import native
from jitunwind.errors import AgentFailed
from jitunwind.rows import Row

CONSUMER, PATH = {
    "jitdump": (JITDUMP, f"/tmp/jit-{os.getpid()}.dump"),
    "map": (PERF_MAP, f"/tmp/perf-{os.getpid()}.map"),
}[sys.argv[1]]
SIZE = 0x200
CODE = b"\x90" * 0x40
PLACE = ctypes.create_string_buffer((CODE + bytes(SIZE - len(CODE))) * 16)
START = ctypes.addressof(PLACE)
STALE = 1e9
"""Seconds since 1970: before any process that lives."""


def tell(*names: str, size: int = SIZE) -> dict[str, Any]:
    """Publishes a region of each name; what comes of it."""
    arch = native()
    table = UnwindTable(size, [0], [Row(*arch.at_entry(arch.platform))])
    said = {"pid": os.getpid(), "path": PATH, "problem": None}
    for name in names:
        place = START + SIZE * statistics().regions
        try:
            publish(Region(place, size, name), table, lines=[Line(0, "/tmp/f.py", 7)], consumers=[CONSUMER])
        except AgentFailed as error:
            said["problem"] = str(error)
    said["regions"] = statistics().regions
    said["told"] = loaded_agent().problem([CONSUMER])
    return said


def obstacle(make: str) -> dict[str, Any]:
    """Something of the file's name is there."""
    before = Path(PATH)
    other = Path(f"{PATH}.other")
    other.write_text("other's")
    if make == "link":
        before.symlink_to(other)
    elif make == "fifo":
        os.mkfifo(PATH)
    else:
        before.write_text("before\n")
        before.chmod(0o666 if make == "writable" else 0o600)
    if make == "hard link":
        other.unlink()
        os.link(PATH, other)
    elif make == "foreign":
        os.chown(PATH, 65534, 65534)
    elif make == "stale":
        os.utime(PATH, (STALE, STALE))
    held = os.open(PATH, os.O_RDONLY) if make in ("locked", "mapped") else -1
    if make == "locked":
        fcntl.flock(held, fcntl.LOCK_EX)
    elif make == "mapped":
        mapped = mmap.mmap(held, 0, prot=mmap.PROT_READ)
    said = tell("f")
    said["other"] = other.read_text()
    said["is"] = before.read_bytes().hex() if make != "fifo" else ""
    if make == "mapped":
        mapped.close()
    other.unlink()
    return said


def forks() -> dict[str, Any]:
    tell("before", "too")
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        said = tell("child's")
        os.write(
            writing, json.dumps({**said, "path": PATH.replace(str(os.getppid()), str(os.getpid()))}).encode()
        )
        os._exit(0)
    os.waitpid(child, 0)
    said = tell("parent's")
    return {**said, "child": json.loads(os.read(reading, 1 << 16))}


def executes() -> dict[str, Any]:
    if len(sys.argv) == 3:
        tell("before", "too")
        with open(PATH, "ab") as file:
            file.write(
                b"\x00\x00\x00\x00\x99\x00" if CONSUMER == JITDUMP else b""
            )  # killed in the middle of a record
        os.execv(sys.executable, [sys.executable, *sys.argv, "again"])
    return tell("after")


def full() -> dict[str, Any]:
    tell("f")
    size = os.stat(PATH).st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 8, resource.RLIM_INFINITY))
    return tell("g", "h")


def stays() -> dict[str, Any]:
    print(json.dumps(tell(*(f"f{number}" for number in range(10)))), flush=True)
    sys.stdin.read()
    return {}


COURSES = {
    "tells": lambda: tell("f", "g\nh"),
    "tight": lambda: tell("f", size=len(CODE)),
    "forks": forks,
    "executes": executes,
    "full": full,
    "stays": stays,
}

if __name__ == "__main__":
    course = COURSES.get(sys.argv[2])
    print(json.dumps(course() if course else obstacle(sys.argv[2])))
