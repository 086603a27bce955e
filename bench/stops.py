"""For how long a look at a process's stacks stops it: ours, and other people's.

    python bench/stops.py

A process of ten threads in JIT code, and one through 5,000 levels of recursion. Ours says itself how long its stop
was; of all, another process looks at the state in /proc, 20,000 times a second at most. It comes before other
processes, where that is permitted. If it had to wait for a processor meanwhile, for a millisecond and for a twentieth
of the stop, the look tells nothing, and is taken again.
py-spy and pystack are those of `pip install 'jitunwind[demo]'`; where one is missing, its line is.
"""

import contextlib
import gc
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import Event, Process, Queue
from pathlib import Path
from typing import Any

from support import ROOT, VERSIONS, running_program

from jitunwind.stacks.library import stacks

ROUNDS, ROUNDS_SEEN, ROUNDS_OF_OTHERS = 100, 30, 3
CASES = (
    ("ten threads", "stops_threads.py", "10", "median at most 5 ms, worst 20 ms"),
    ("5,000 levels deep", "stops_deep.py", "5000", "worst at most 50 ms"),
)
LOOK_SECONDS = 0.00005
WATCHER_STARTS = 0.05
LONGEST_WAIT, LARGEST_PART = 0.001, 0.05
MOST_TRIES = 2


def watch(pid: int, ended: Any, found: Any) -> None:
    """Puts into `found` for how many seconds in all the process stood still for a tracer, until `ended` is set, and
    for how many this process itself had to wait."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(os.sched_get_priority_min(os.SCHED_RR)))
    still, waited = 0.0, _waited()
    path, last = f"/proc/{pid}/stat", time.perf_counter()
    while not ended.is_set():
        with open(path, "rb", buffering=0) as file:
            stands = file.read().rpartition(b")")[2].split()[0] == b"t"
        now = time.perf_counter()
        still, last = still + (now - last if stands else 0.0), now
        time.sleep(LOOK_SECONDS)
    found.put((still, _waited() - waited))


def _waited() -> float:
    """Seconds for which this process was ready to run, and did not (Linux scheduler/sched-stats, schedstat)."""
    return int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9


@contextmanager
def watched(pid: int) -> Iterator[list[tuple[float, float]]]:
    """Gives a list that has, afterwards, what `watch` has found."""
    ended, found, result = Event(), Queue(), list[tuple[float, float]]()
    watcher = Process(target=watch, args=(pid, ended, found), daemon=True)
    watcher.start()
    time.sleep(WATCHER_STARTS)
    try:
        yield result
    finally:
        ended.set()
        result.append(found.get())
        watcher.join()


def seen_from_outside(pid: int, look: Callable[[], object], rounds: int) -> list[float]:
    """For how many seconds the process stood still, in each of some rounds."""
    times: list[float] = []
    for _ in range(MOST_TRIES * rounds):
        with watched(pid) as found:
            look()
        still, waited = found[0]
        if waited < max(LONGEST_WAIT, LARGEST_PART * still):
            times.append(still)
        if len(times) == rounds:
            break
    return times


def others(pid: int) -> dict[str, list[str]]:
    def beside(name: str) -> str | None:
        return shutil.which(name) or shutil.which(str(Path(sys.executable).with_name(name)))

    spy, pystack, gdb = beside("py-spy"), beside("pystack"), beside("gdb")
    found: dict[str, list[str]] = {}
    if spy is not None:
        found["py-spy dump"] = [spy, "dump", "--pid", str(pid)]
        found["py-spy dump --native"] = [spy, "dump", "--native", "--pid", str(pid)]
    if pystack is not None:
        found["pystack remote --native"] = [pystack, "remote", "--native", str(pid)]
    if gdb is not None:
        found["plain gdb"] = [gdb, "-nx", "-batch", "-p", str(pid), "-ex", "thread apply all bt"]
    return found


def figures(times: list[float]) -> str:
    if not times:
        return "nothing is known: this machine is too busy"
    return f"median {1e3 * statistics.median(times):.1f} ms, worst {1e3 * max(times):.1f} ms of {len(times)}"


def run(command: list[str]) -> None:
    """subprocess.CalledProcessError."""
    subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True)


def main() -> None:
    for version in VERSIONS:
        for name, program, size, aim in CASES:
            with running_program(version, ROOT / "bench" / program, size) as pid:
                print(f"CPython {version}, {name} (aim: {aim})")
                own = [stacks(pid).stopped_seconds for _ in range(ROUNDS)]
                print(f"  jitunwind, as it says itself: {figures(own)}")
                seen = seen_from_outside(pid, lambda pid=pid: stacks(pid), ROUNDS_SEEN)
                print(f"  jitunwind, seen from outside: {figures(seen)}", flush=True)
                for other, command in others(pid).items():
                    try:
                        seen = seen_from_outside(pid, lambda of=command: run(of), ROUNDS_OF_OTHERS)
                        said = figures(seen)
                    except subprocess.CalledProcessError:
                        said = "it fails"
                    print(f"  {other}, seen from outside: {said}", flush=True)


if __name__ == "__main__":
    gc.disable()
    main()
