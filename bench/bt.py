"""`jitunwind bt` against plain GDB's `thread apply all bt` on the same process.

    python bench/bt.py

With 10 and with 2,000 executors alive, and through 1,000 JIT activations. "stood still" is how long each
held the process, seen by its state in /proc. "The least" is what no such command can be without: a Python that
imports click and starts GDB, and in GDB an unwinder in Python that is asked for each frame and has no answer, and a
walk from frame to frame. Nothing is recovered there, named or printed; on 3.14, and so GDB, it gets no further than
the first JIT frame.
"""

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from support import VERSIONS, in_turns, running

from jitunwind.gdbplugin.backtrace import StopWatch
from jitunwind.gdbplugin.launch import find_gdb

ROUNDS = 7
JITUNWIND = str(Path(sys.executable).with_name("jitunwind"))
LEAST = """
import gdb
import gdb.unwinder
class Nothing(gdb.unwinder.Unwinder):
    def __call__(self, pending_frame):
        int(pending_frame.read_register("rip"))
gdb.unwinder.register_unwinder(None, Nothing("nothing"))
frame = gdb.newest_frame()
while frame is not None:
    frame.pc(), frame.name(), frame.find_sal()
    frame = frame.older()
"""
STARTS = "import click, subprocess, sys; subprocess.run(sys.argv[1:], capture_output=True)"
CASES = ((10, 0), (2000, 0), (10, 1000))


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    return done.stdout


def stood_still(pid: int, command: list[str]) -> float:
    times = []
    for _ in range(3):
        with StopWatch(pid) as watch:
            run(command)
        times.append(watch.stopped_seconds)
    return statistics.median(times)


def main() -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".py") as script:
        script.write(LEAST)
        script.flush()
        measure(script.name)


def measure(least_script: str) -> None:
    for version in VERSIONS:
        for executors, depth in CASES:
            with running(version, executors, depth) as pid:
                plain = [find_gdb(), "-nx", "-batch", "-p", str(pid), "-ex", "thread apply all bt"]
                ours = [JITUNWIND, "bt", str(pid)]
                frames = sum(line.startswith("#") for line in run(ours).splitlines())
                plain_frames = sum(line.startswith("#") for line in run(plain).splitlines())
                attach = [
                    find_gdb(),
                    "-nx",
                    "-batch",
                    "-iex",
                    "set backtrace limit unlimited",
                    "-p",
                    str(pid),
                ]
                least = [sys.executable, "-c", STARTS, *attach, "-x", least_script]
                mine, gdbs, ratio = in_turns(lambda a=ours: run(a), lambda a=plain: run(a), ROUNDS)
                _, _, least_ratio = in_turns(lambda a=least: run(a), lambda a=plain: run(a), ROUNDS)
                still, gdb_still = stood_still(pid, ours), stood_still(pid, plain)
            print(
                f"CPython {version}, {executors} executors, {depth} JIT activations: bt {mine:.2f} s "
                f"({frames} frames), gdb {gdbs:.2f} s ({plain_frames} frames), ratio {ratio:.2f} "
                f"(aim: at most 1.5; the least: {least_ratio:.2f}); stood still {still:.3f} s and {gdb_still:.3f} s "
                "(aim: at most 0.3 s more)",
                flush=True,
            )


if __name__ == "__main__":
    main()
