"""What recording costs a program: pyperformance's programs, alone and recorded at 100 Hz by several tools.

    python bench/recording.py PYPERFORMANCE [--versions …] [--programs …] [--rounds N] [--seconds S]

PYPERFORMANCE is a folder with pyperf and pyperformance in it (`make audit` fetches them). A program does the same work
in each run, as much as takes --seconds alone. A round runs it alone and with each tool, in turns. The ratios are of the
wall time of the work itself, as pyperf measures it, so that start-up counts for nobody. "whole" is the share of samples
whose stack reaches the program's outermost function. Last comes the processor time that recording takes of a program
with ten threads that all run, 100 times a second each.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from publishing import PROGRAMS
from support import VERSIONS, interpreter

RATE = 100
ROUNDS = 3
SECONDS = 20.0
ENOUGH = 2.0
AIM, CORE_AIM = 1.02, 0.5
OUTERMOST = ("_start", "<module>")
"""What a whole stack begins with: of native frames, or of Python's alone."""
THREADS = """
import threading, zlib
DATA = bytes(1 << 20)
def work():
    while True:
        zlib.crc32(DATA)
for _ in range(9):
    threading.Thread(target=work, daemon=True).start()
print("ready", flush=True)
work()
"""
"""Ten threads that all run: zlib lets go of the GIL."""

Tool = Callable[[int, Path], list[str]]


def jitunwind(pid: int, file: Path) -> list[str]:
    return [sys.executable, "-m", "jitunwind", "record", "-r", str(RATE), "-o", str(file), str(pid)]


def py_spy(pid: int, file: Path) -> list[str]:
    program = shutil.which("py-spy") or str(Path(sys.executable).with_name("py-spy"))
    return [program, "record", "-r", str(RATE), "-d", "86400", "-f", "raw", "-o", str(file), "-p", str(pid)]


def py_spy_native(pid: int, file: Path) -> list[str]:
    return [*py_spy(pid, file), "--native"]


TOOLS: dict[str, Tool] = {
    "jitunwind record": jitunwind,
    "py-spy record": py_spy,
    "py-spy record --native": py_spy_native,
}


class Run(NamedTuple):
    """Seconds of the work; with a tool, how many samples it has written, the share of whole ones, and how many in JIT
    code have no name, as it says itself."""

    seconds: float
    samples: int = 0
    whole: float = 0.0
    unnamed: int = 0


class Bench:
    """One interpreter."""

    def __init__(self, python: str, folder: Path, place: Path) -> None:
        self._python, self._folder = python, folder
        self._result, self._recorded = place / "result.json", place / "recorded.collapsed"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        cache = {"PYTHONPYCACHEPREFIX": str(place / "pycache"), "PYTHONHASHSEED": "0"}
        self.environment = {**kept, **cache, "PYTHON_JIT": "1", "PYTHONPATH": str(folder)}

    def words(self, program: str, loops: int) -> list[str]:
        """What the interpreter is to run: the program's work, so many times."""
        script = self._folder / "pyperformance/data-files/benchmarks" / f"bm_{program}/run_benchmark.py"
        self._result.unlink(missing_ok=True)
        options = ["--worker", f"--loops={loops}", "--values=1", "--warmups=0", "-o", str(self._result)]
        return [str(script), *options]

    def run(self, program: str, loops: int, tool: Tool | None = None) -> Run:
        """The tool, if there is one, begins as soon as the program has started."""
        self._recorded.unlink(missing_ok=True)
        process = subprocess.Popen(
            [self._python, *self.words(program, loops)], env=self.environment, stdout=subprocess.DEVNULL
        )
        recorder = None
        if tool is not None:
            recorder = subprocess.Popen(
                tool(process.pid, self._recorded),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
        if process.wait():
            raise SystemExit(f"{program} ended with status {process.returncode}")
        said = recorder.communicate()[1] if recorder is not None else ""
        seconds = json.loads(self._result.read_text())["benchmarks"][0]["runs"][0]["values"][0] * loops
        unnamed = re.search(r"([\d,]+) in JIT code without a name", said)
        count = int(unnamed[1].replace(",", "")) if unnamed else 0
        return Run(seconds, *(_samples(self._recorded) if tool is not None else (0, 0.0)), count)

    def loops(self, program: str, seconds: float) -> int:
        """How many take that long."""
        loops, spent = 1, self.run(program, 1).seconds
        while spent < min(ENOUGH, seconds):
            loops *= 2
            spent = self.run(program, loops).seconds
        return max(1, round(loops * seconds / spent))


def _samples(file: Path) -> tuple[int, float]:
    """How many samples a file of collapsed stacks has, and the share of whole ones."""
    count = whole = 0
    for line in file.read_text(errors="replace").splitlines() if file.exists() else ():
        stack, _, weight = line.rpartition(" ")
        count += int(weight)
        outermost = next((each for each in stack.split(";") if not each.startswith("process ")), "")
        whole += int(weight) * outermost.startswith(OUTERMOST)
    return count, whole / count if count else 0.0


def slow_down(bench: Bench, programs: Sequence[str], rounds: int, seconds: float) -> None:
    print(f"{'':16}" + "".join(f"{name:>34}" for name in TOOLS))
    ratios: dict[str, list[float]] = {name: [] for name in TOOLS}
    unnamed = 0
    for program in programs:
        loops = bench.loops(program, seconds)
        found: dict[str, list[Run]] = {name: [] for name in TOOLS}
        own: dict[str, list[float]] = {name: [] for name in TOOLS}
        for number in range(rounds):
            order = list(TOOLS)[number % len(TOOLS) :] + list(TOOLS)[: number % len(TOOLS)]
            for name in order:
                alone = bench.run(program, loops).seconds
                run = bench.run(program, loops, TOOLS[name])
                found[name].append(run)
                own[name].append(run.seconds / alone)
        row = f"{program:16}"
        unnamed += sum(run.unnamed for runs in found.values() for run in runs)
        for name in TOOLS:
            ratio = statistics.geometric_mean(own[name])
            ratios[name].append(ratio)
            rate = statistics.fmean(run.samples / run.seconds for run in found[name])
            whole = statistics.fmean(run.whole for run in found[name])
            row += f"{ratio:>11.3f}, {rate:>3.0f} Hz, {100 * whole:>5.1f} % whole"
        print(row, flush=True)
    means = "".join(f"{statistics.geometric_mean(each):>11.3f}{'':23}" for each in ratios.values())
    print(f"{'geometric mean':16}{means}\n(aim of jitunwind record: at most {AIM})")
    print(f"jitunwind record: {unnamed} samples in JIT code without a name (aim: 0)")


def ten_threads(python: str) -> None:
    """The processor time of each tool, of one core, with ten threads that run."""
    with subprocess.Popen([python, "-c", THREADS], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            for name, tool in TOOLS.items():
                print(
                    f"{name}: {_share_of_core(tool, process.pid):.0%} of a core for ten threads", flush=True
                )
        finally:
            process.kill()
    print(f"(aim of jitunwind record: at most {CORE_AIM:.0%})")


def _share_of_core(tool: Tool, pid: int) -> float:
    with tempfile.TemporaryDirectory() as place:
        recorder = subprocess.Popen(
            tool(pid, Path(place) / "out.collapsed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(2)  # what it takes to start is no cost of a sample
        before, began = _processor_seconds(recorder.pid), time.monotonic()
        time.sleep(5)
        spent = (_processor_seconds(recorder.pid) - before) / (time.monotonic() - began)
        recorder.terminate()
        recorder.wait()
    return spent


def _processor_seconds(pid: int) -> float:
    """proc(5), /proc/PID/stat: utime and stime."""
    fields = re.sub(r".*\) ", "", Path(f"/proc/{pid}/stat").read_text()).split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--versions", nargs="+", default=VERSIONS)
    parser.add_argument("--programs", nargs="+", default=PROGRAMS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    arguments = parser.parse_args()
    for version in arguments.versions:
        print(f"\nCPython {version}, PYTHON_JIT=1, {RATE} Hz, rounds: {arguments.rounds}\n")
        with tempfile.TemporaryDirectory() as place:
            bench = Bench(interpreter(version), arguments.folder.resolve(), Path(place))
            slow_down(bench, arguments.programs, arguments.rounds, arguments.seconds)
        ten_threads(interpreter(version))


if __name__ == "__main__":
    main()
