"""How long `bt` and `explain`'s list take of a process with many regions of JIT code.

    python bench/listing.py

The program is bench/regions.py, on CPython 3.14: 3.15 frees executors that are not used. The commands are an installed
copy's, start-up included.
"""

import re
import statistics
import subprocess
import time

from support import ROOT, installed, interpreter

VERSION = "3.14"
FUNCTIONS = (150, 3000)
LOOPS = 20
ROUNDS = 7
AIMS = {"bt": 1.0, "explain": 3.0}


def measured(command: list[str]) -> tuple[list[float], str]:
    """Seconds of each round, and what the last one printed."""
    times, said = [], ""
    for _ in range(ROUNDS):
        began = time.perf_counter()
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        times.append(time.perf_counter() - began)
    return times, said


def main() -> None:
    jitunwind = installed()
    for functions in FUNCTIONS:
        words = [interpreter(VERSION), str(ROOT / "bench/regions.py"), str(functions), str(LOOPS)]
        with subprocess.Popen(words, env={"PYTHON_JIT": "1"}, stdout=subprocess.PIPE, text=True) as program:
            try:
                assert program.stdout is not None
                program.stdout.readline()
                listed = ""
                for verb, aim in AIMS.items():
                    times, listed = measured([jitunwind, verb, str(program.pid)])
                    print(
                        f"{functions:,} functions, {verb}: median {statistics.median(times):.2f} s, "
                        f"{min(times):.2f} to {max(times):.2f} s (aim: at most {aim:.0f} s)",
                        flush=True,
                    )
                print(
                    f"{functions:,} functions: {len(re.findall(r'^ *[0-9]+  0x', listed, re.MULTILINE)):,} regions"
                )
            finally:
                program.kill()


if __name__ == "__main__":
    main()
