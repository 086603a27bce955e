"""What recording costs a program: pyperformance's programs, recorded at 100 Hz by several tools and not, in turns.

    python bench/recording.py PYPERFORMANCE [--versions …] [--programs …] [--rounds N] [--seconds S]

PYPERFORMANCE is a folder with pyperf and pyperformance in it (`make audit` fetches them). A program does the same work
again and again, and says when it has done it once more. In a round each tool records it for --seconds, with as long
without any tool before and behind. The ratios are of the median time of the work in such stretches to that in their
neighbours: all of one process, since two runs of a program differ by more than a recorder costs. What a tool takes to
start is left out. "whole" is the share of samples whose stack reaches the program's outermost function. Last comes the
processor time that recording takes of a program with ten threads that all run, 100 times a second each.
"""

import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from publishing import PROGRAMS
from support import VERSIONS, interpreter

RATE = 100
ROUNDS = 2
SECONDS = 2.5
START_SECONDS = 1.5
"""That a tool takes to start, at most."""
WORK_SECONDS = 0.05
"""Of the work that is done again and again."""
MOST = str(10**7)
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


@dataclass
class Recorded:
    """By a tool: the seconds that each piece of work took, without it in stretches before and behind; the samples that
    it has written, for how many seconds it ran, whole samples, and how many in JIT code have no name, as it says."""

    with_it: list[float] = field(default_factory=list)
    without: list[float] = field(default_factory=list)
    samples: int = 0
    seconds: float = 0.0
    whole: float = 0.0
    unnamed: int = 0

    @property
    def ratio(self) -> float:
        return statistics.median(self.with_it) / statistics.median(self.without)


class Bench:
    """pyperformance's programs, run by one interpreter."""

    def __init__(self, python: str, folder: Path, place: Path) -> None:
        self._python, self._folder, self._result = python, folder, place / "result.json"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        cache = {"PYTHONPYCACHEPREFIX": str(place / "pycache"), "PYTHONHASHSEED": "0"}
        self.environment = {**kept, **cache, "PYTHON_JIT": "1", "PYTHONPATH": str(folder)}

    def words(self, program: str, loops: int, values: str = "1") -> list[str]:
        """What the interpreter is to run: the program's work, so many times."""
        script = self._folder / "pyperformance/data-files/benchmarks" / f"bm_{program}/run_benchmark.py"
        self._result.unlink(missing_ok=True)
        options = [f"--loops={loops}", f"--values={values}", "--warmups=0", "-o", str(self._result)]
        return [str(script), "--worker", *options]

    def started(self, program: str, loops: int, values: str = "1") -> subprocess.Popen[str]:
        """With more than one value it prints a line for each."""
        words = [self._python, "-u", *self.words(program, loops, values), *(["-v"] if values != "1" else [])]
        return subprocess.Popen(words, env=self.environment, stdout=subprocess.PIPE, text=True)

    def loops(self, program: str, seconds: float) -> int:
        """How many take that long."""
        loops = 1
        while True:
            process = self.started(program, loops)
            process.communicate()
            if process.returncode:
                raise SystemExit(f"{program} ended with status {process.returncode}")
            spent = json.loads(self._result.read_text())["benchmarks"][0]["runs"][0]["values"][0] * loops
            if spent > seconds / 4:
                return max(1, round(loops * seconds / spent))
            loops *= 2


class Working:
    """A program that does its work again and again, and the times at which it has done it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._times: list[float] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("Value "):
                self._times.append(time.monotonic())

    def each(self, seconds: float) -> list[float]:
        """The times that the work takes, over the next seconds."""
        begin = len(self._times)
        time.sleep(seconds)
        if self.process.poll() is not None:
            raise SystemExit(f"{self.process.args} ended with status {self.process.returncode}")
        times = self._times[begin:]
        return [end - start for start, end in pairwise(times)]

    def recorded(self, tool: Tool, found: Recorded, before: list[float], seconds: float) -> list[float]:
        """Adds what that tool does to it; the times of the work afterwards. `before`: those before."""
        with tempfile.TemporaryDirectory() as place:
            file = Path(place) / "recorded.collapsed"
            began = time.monotonic()
            recorder = subprocess.Popen(
                tool(self.process.pid, file),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                preexec_fn=_heed_interrupts,
            )
            time.sleep(START_SECONDS)
            found.with_it += self.each(seconds)
            recorder.send_signal(signal.SIGINT)
            found.seconds += time.monotonic() - began
            said = recorder.communicate()[1]
            count, whole = _samples(file)
        after = self.each(seconds)
        found.without += before + after
        found.samples += count
        found.whole += count * whole
        unnamed = re.search(r"([\d,]+) in JIT code without a name", said)
        found.unnamed += int(unnamed[1].replace(",", "")) if unnamed else 0
        return after


def _heed_interrupts() -> None:
    """Also where this program is run in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


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
        found = {name: Recorded() for name in TOOLS}
        working = Working(bench.started(program, bench.loops(program, WORK_SECONDS), MOST))
        try:
            working.each(seconds)  # its code is compiled now
            times = working.each(seconds)
            for _ in range(rounds):
                for name, tool in TOOLS.items():
                    times = working.recorded(tool, found[name], times, seconds)
        finally:
            working.process.kill()
            working.process.wait()
        row = f"{program:16}"
        for name, each in found.items():
            ratios[name].append(each.ratio)
            unnamed += each.unnamed
            whole = 100 * each.whole / max(each.samples, 1)
            row += f"{each.ratio:>11.3f}, {each.samples / each.seconds:>3.0f} Hz, {whole:>5.1f} % whole"
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
