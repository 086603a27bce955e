"""What the benchmarks share: interpreters, a process with many executors, and timing in turns."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VERSIONS = ("3.14", "3.15")


def interpreter(version: str) -> str:
    """The path of a JIT-enabled CPython of `version`, fetched if need be."""
    tool = [sys.executable, str(ROOT / "tools" / "interpreters.py"), version, "--json"]
    answer = subprocess.run(tool, check=True, capture_output=True, text=True).stdout
    return str(json.loads(answer.splitlines()[-1])["python"])


@contextmanager
def running(version: str, executors: int, depth: int = 0) -> Iterator[int]:
    """The pid of a process with that many executors, and that deep in JIT activations, once it is ready."""
    program = [interpreter(version), str(ROOT / "bench" / "many.py"), str(executors), str(depth)]
    environment = {**os.environ, "PYTHON_JIT": "1"}
    process = subprocess.Popen(program, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise RuntimeError(f"{program} did not become ready")
        yield process.pid
    finally:
        process.kill()
        process.wait()


def in_turns(
    one: Callable[[], object], other: Callable[[], object], rounds: int
) -> tuple[float, float, float]:
    """Median seconds of `one` and of `other`, run A B A B …, and the median of the ratios pair by pair."""
    one(), other()
    pairs = [(_seconds(one), _seconds(other)) for _ in range(rounds)]
    ones, others, ratios = zip(*((a, b, a / b) for a, b in pairs), strict=True)
    return statistics.median(ones), statistics.median(others), statistics.median(ratios)


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
