"""How the time of `jitunwind.stacks` grows with the depth of a stack, with Python frames and without.

    python bench/depths.py

Each level of the program's recursion is four native frames or five. The exponent is that of the growth from the first
depth to the last; 1 is a time in proportion.
"""

import gc
import math
import statistics
import time

from support import ROOT, VERSIONS, running_program

from jitunwind.stacks.library import stacks

LEVELS = (312, 625, 1250, 5000)
ROUNDS = 5


def measured(version: str, levels: int, python: bool) -> tuple[int, float]:
    """The number of frames, and the median seconds."""
    with running_program(version, ROOT / "bench" / "stops_deep.py", str(levels)) as pid:
        times, count = [], 0
        for _ in range(ROUNDS):
            begin = time.perf_counter()
            found = stacks(pid, python=python, registers=False)
            times.append(time.perf_counter() - begin)
            assert found.complete, found.threads[0].reason
            count = len(found.threads[0].frames)
    return count, statistics.median(times)


def main() -> None:
    for version in VERSIONS:
        for python in (False, True):
            found = [measured(version, levels, python) for levels in LEVELS]
            (few, least), (many, most) = found[0], found[-1]
            exponent = math.log(most / least) / math.log(many / few)
            said = ", ".join(f"{count:,} frames {1000 * seconds:.0f} ms" for count, seconds in found)
            print(
                f"CPython {version}{', --python' if python else ''}: {said}; exponent {exponent:.2f} "
                "(aim: at most 1.1)",
                flush=True,
            )


if __name__ == "__main__":
    gc.disable()
    main()
