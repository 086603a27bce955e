"""What becomes of perf's files where a Python publishes: `perf_follow.py jitdump|map COURSE` tells."""

import gc
import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

from made import make

import jitunwind
from jitunwind.agent.library import loaded_agent
from jitunwind.errors import AgentFailed
from jitunwind.jits.cpython.inside import follow

KIND = sys.argv[1]
PATIENCE = 60.0
ROUNDS = 30
"""After so many the interpreter of 3.15 has looked for cold executors, and freed some."""


def path(pid: int) -> str:
    return f"/tmp/jit-{pid}.dump" if KIND == "jitdump" else f"/tmp/perf-{pid}.map"


def told() -> dict[str, Any]:
    left = jitunwind.flush(PATIENCE)
    return {
        "left": left,
        "regions": jitunwind.statistics().regions,
        "problems": jitunwind.problems(),
        "path": path(os.getpid()),
    }


def late() -> dict[str, Any]:
    """Asked for where publishing is on already; and once more, which changes nothing."""
    jitunwind.enable()
    kept.extend(make() for _ in range(3))
    jitunwind.flush(PATIENCE)
    jitunwind.enable(perf=KIND)
    jitunwind.enable(perf=KIND)
    kept.append(make())
    return told()


def forks() -> dict[str, Any]:
    jitunwind.enable(perf=KIND)
    kept.extend(make() for _ in range(3))
    before = told()
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        kept.append(make())
        os.write(writing, json.dumps(told()).encode())
        os._exit(0)
    os.waitpid(child, 0)
    return {**before, "child": json.loads(os.read(reading, 1 << 16))}


def gone() -> dict[str, Any]:
    """Code that has gone before it had its turn: while the publisher stands still."""
    jitunwind.enable(perf=KIND)
    before = told()["regions"]
    loaded_agent().pause()
    for _ in range(ROUNDS):
        for _ in range(20):
            make()
        gc.collect()
    loaded_agent().resume(True)
    return {**told(), "before": before}


def refused() -> dict[str, Any]:
    Path(path(os.getpid())).symlink_to("/nowhere")
    try:
        jitunwind.enable(perf=KIND)
        error = ""
    except AgentFailed as refusal:
        error = str(refusal)
    kept.append(make())
    os.unlink(path(os.getpid()))
    return {**told(), "error": error}


def full() -> dict[str, Any]:
    jitunwind.enable(perf=KIND)
    kept.append(make())
    size = os.stat(told()["path"]).st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 16, resource.RLIM_INFINITY))
    for _ in range(3):
        kept.append(make())
        jitunwind.flush(PATIENCE)
    return told()


def late_at_the_end() -> dict[str, Any]:
    """Code that has not had its turn when the process ends, which takes no time for it."""
    jitunwind.enable(perf=KIND)
    found = told()
    follow._FILES_SECONDS = 0.0
    loaded_agent().pause()
    kept.append(make())
    return found


kept: list[Any] = []
COURSES = {each.__name__: each for each in (late, forks, gone, refused, full, late_at_the_end)}

if __name__ == "__main__":
    print(json.dumps(COURSES[sys.argv[2]]()))
