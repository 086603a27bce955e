"""`jitunwind bt` against plain GDB's `thread apply all bt` on the same process.

    python bench/bt.py

With 10 and with 2,000 executors alive, and through 1,000 JIT activations. "stood still" is how long each
held the process, seen by its state in /proc.
"""

import statistics
import subprocess
import sys
from pathlib import Path

from support import VERSIONS, in_turns, running

from jitunwind.gdbplugin.backtrace import StopWatch
from jitunwind.gdbplugin.launch import find_gdb

ROUNDS = 7
JITUNWIND = str(Path(sys.executable).with_name("jitunwind"))
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
    for version in VERSIONS:
        for executors, depth in CASES:
            with running(version, executors, depth) as pid:
                plain = [find_gdb(), "-nx", "-batch", "-p", str(pid), "-ex", "thread apply all bt"]
                ours = [JITUNWIND, "bt", str(pid)]
                frames = sum(line.startswith("#") for line in run(ours).splitlines())
                plain_frames = sum(line.startswith("#") for line in run(plain).splitlines())
                mine, gdbs, ratio = in_turns(lambda a=ours: run(a), lambda a=plain: run(a), ROUNDS)
                still, gdb_still = stood_still(pid, ours), stood_still(pid, plain)
            print(
                f"CPython {version}, {executors} executors, {depth} JIT activations: bt {mine:.2f} s "
                f"({frames} frames), gdb {gdbs:.2f} s ({plain_frames} frames), ratio {ratio:.2f} "
                f"(aim: at most 1.5); stood still {still:.3f} s and {gdb_still:.3f} s "
                "(aim: at most 0.3 s more)",
                flush=True,
            )


if __name__ == "__main__":
    main()
