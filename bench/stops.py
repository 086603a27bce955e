"""For how long a look at a process's stacks stops it: ours, and other people's.

    python bench/stops.py

A process of ten threads in JIT code, and one through 5,000 levels of recursion. Ours says itself how long its stop was;
of all, another process looks at the state in /proc as often as it can. py-spy and pystack are those of
`pip install 'jitunwind[demo]'`; where one is missing, its line is.
"""

import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import Event, Process, Queue
from pathlib import Path
from typing import Any

from support import ROOT, VERSIONS, running_program

from jitunwind.stacks.library import stacks

ROUNDS, ROUNDS_OF_OTHERS = 100, 5
CASES = (("ten threads", "stops_threads.py", "10"), ("5,000 levels deep", "stops_deep.py", "5000"))


def watch(pid: int, ended: Any, found: Any) -> None:
    """Puts into `found` how many seconds in all the process stood still for a tracer, until `ended` is set."""
    still, last = 0.0, time.perf_counter()
    path = Path(f"/proc/{pid}/stat")
    while not ended.is_set():
        stands = path.read_bytes().rpartition(b")")[2].split()[0] == b"t"
        now = time.perf_counter()
        still, last = still + (now - last if stands else 0.0), now
    found.put(still)


@contextmanager
def watched(pid: int) -> Iterator[list[float]]:
    """Gives a list that has, afterwards, for how long the process stood still."""
    ended, found, result = Event(), Queue(), list[float]()
    watcher = Process(target=watch, args=(pid, ended, found), daemon=True)
    watcher.start()
    yield result
    ended.set()
    result.append(found.get())
    watcher.join()


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
    return f"median {1e3 * statistics.median(times):.1f} ms, worst {1e3 * max(times):.1f} ms"


def main() -> None:
    for version in VERSIONS:
        for name, program, size in CASES:
            with running_program(version, ROOT / "bench" / program, size) as pid:
                print(f"CPython {version}, {name}")
                own = [stacks(pid).stopped_seconds for _ in range(ROUNDS)]
                print(f"  jitunwind, as it says itself: {figures(own)}")
                seen = []
                for _ in range(ROUNDS_OF_OTHERS):
                    with watched(pid) as still:
                        stacks(pid)
                    seen += still
                print(f"  jitunwind, seen from outside: {figures(seen)}")
                for other, command in others(pid).items():
                    seen, failed = [], False
                    for _ in range(ROUNDS_OF_OTHERS):
                        with watched(pid) as still:
                            done = subprocess.run(
                                command, stdin=subprocess.DEVNULL, capture_output=True, check=False
                            )
                        seen += still
                        failed = failed or done.returncode != 0
                    said = "it fails" if failed else figures(seen)
                    print(f"  {other}, seen from outside: {said}", flush=True)


if __name__ == "__main__":
    main()
