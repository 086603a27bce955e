"""What publishing costs: ten programs of pyperformance with it and without, and the bytes that it holds.

    python bench/publishing.py PYPERFORMANCE [--measures work time bytes] [--versions …] [--programs …] …

PYPERFORMANCE is a folder with pyperf and pyperformance in it (`make audit` fetches them). A program does the same
work in each of its runs, as much as takes --seconds without publishing.

The work is the processor time that publishing took in a run, its start included, against all the rest of the run: in
all, for each region that is published at the end, and for each second of the rest. It
is measured in the process itself, so no machine's noise hides it. For the time, a round runs the program with
publishing and without in turns, each time in a process of its own; the ratios are of wall time and of the CPU time of
all threads. --startup gives Python source to run at the start instead of `jitunwind.enable()`: with an empty file
the ratios show how exact the machine measures. The bytes are those held at the end of a short run for an executor,
beside what CPython 3.15 itself holds for one where nothing else publishes (bench/held.py). With --perf, publishing
writes a file for perf as well.
"""

import argparse
import contextlib
import json
import math
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from support import ENABLE, ROOT, STARTUP, VERSIONS, interpreter, is_switched_on, switch_on

PROGRAMS = (
    *("chaos", "deltablue", "fannkuch", "go", "hexiom"),
    *("nbody", "nqueens", "raytrace", "richards", "spectral_norm"),
)
ROUNDS = 1
SECONDS = 60.0
AIM = 1.005
PERF_AIMS = {"jitdump": 1.015, "map": 1.01}
"""Of publishing that writes a file for perf besides."""
BYTES_AIM = 0.25
OWN = "3.15"
"""The version of CPython that publishes executors itself."""
WORK, TIME, BYTES = MEASURES = ("work", "time", "bytes")
MEASURED = """
import atexit, os, sys, time
for name in os.environ["PROGRAM_IMPORTS"].split():
    __import__(name)
began = time.process_time()
import jitunwind
from jitunwind.jits.cpython.inside.follow import Follower
work = Follower._work
spent = 0.0
def timed(self):
    global spent
    began = time.thread_time()
    work(self)
    spent += time.thread_time() - began
Follower._work = timed
jitunwind.enable(PERF)
spent += time.process_time() - began
def tell():
    global spent
    began = time.thread_time()
    jitunwind.flush()
    spent += time.thread_time() - began
    with open(os.environ["PUBLISHING_TOLD"], "w") as file:
        file.write(f"{spent} {time.process_time()} {jitunwind.statistics().regions}")
atexit.register(tell)
"""
"""Publishing, with PERF for perf, which tells at the end how much processor time it took, of how much, and how many
regions there are. What the program imports of the standard library by itself is no cost of publishing, and imported
before."""
IMPORTED = """
import atexit, os, sys
def tell():
    with open(os.environ["PUBLISHING_TOLD"], "w") as file:
        file.write(" ".join(sys.modules.keys() & sys.stdlib_module_names))
atexit.register(tell)
"""
"""No publishing; tells at the end what was imported of the standard library."""
WIDE = 1.96
"""Standard errors on each side of the mean that hold 95 % of a normal distribution."""
ENOUGH = 2.0
"""Seconds after which a run tells how many loops make a long one."""


@dataclass(frozen=True)
class Cost:
    """Of one process: seconds from its start to its end, and those that its threads computed."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Held:
    """At the end of a run: the executors that are published, those that are not, and the bytes held for that."""

    executors: int
    unpublished: int
    bytes: float

    @property
    def each(self) -> float:
        return self.bytes / self.executors


@dataclass(frozen=True)
class Work:
    """Of one process: processor seconds that publishing took, those of all, and what is published at the end."""

    publishing: float
    all: float
    regions: int

    @property
    def ratio(self) -> float:
        return self.all / (self.all - self.publishing)

    @property
    def each(self) -> float:
        """Seconds for each region that is published at the end."""
        return self.publishing / max(self.regions, 1)

    @property
    def per_second(self) -> float:
        """Seconds in each second that the program itself computes."""
        return self.ratio - 1


@dataclass(frozen=True)
class Pair:
    off: Cost
    on: Cost


class Bench:
    """One interpreter, and the two environments to run it in."""

    def __init__(self, python: str, folder: Path, place: Path, startup: str, perf: str | None = None) -> None:
        self._python = python
        self._folder = folder
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        caches = {"PYTHONPYCACHEPREFIX": str(place / "pycache"), "PYTHONHASHSEED": "0"}
        self.off = {**kept, **caches, "PYTHON_JIT": "1", "PYTHONPATH": str(folder)}
        switch_on(place / "on", startup)
        (place / "on/sitecustomize.py").write_text(f"import {STARTUP}\n")
        self.on = {**self.off, "PYTHONPATH": f"{place / 'on'}{os.pathsep}{folder}"}
        self._told = place / "told"
        self._measured, self._asked = (
            self.telling(place / name, source)
            for name, source in (("measured", MEASURED.replace("PERF", repr(perf), 1)), ("asked", IMPORTED))
        )
        if not is_switched_on(Path(python), self.on):
            raise SystemExit(f"publishing cannot be switched on in {python}")

    def telling(self, place: Path, startup: str) -> dict[str, str]:
        """The environment of programs that run `startup` first, and tell something at their end."""
        switch_on(place, startup)
        (place / "sitecustomize.py").write_text(f"import {STARTUP}\n")
        path = f"{place}{os.pathsep}{self._folder}"
        return {**self.off, "PYTHONPATH": path, "PUBLISHING_TOLD": str(self._told)}

    def run(self, program: str, loops: int, environment: dict[str, str]) -> Cost:
        command = [self._python, *self._worker(program, loops)]
        began = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        for path in (f"/tmp/jit-{process.pid}.dump", f"/tmp/perf-{process.pid}.map"):
            Path(path).unlink(missing_ok=True)
        if process.returncode:
            raise SystemExit(f"{program} ended with status {process.returncode}")
        return Cost(wall, usage.ru_utime + usage.ru_stime)

    def loops(self, program: str, seconds: float) -> int:
        """How many take that long without publishing, start-up left aside."""
        self.run(program, 1, self.off)  # what it imports is compiled then
        loops, spent = 1, self.run(program, 1, self.off).wall
        while spent < min(ENOUGH, seconds):
            loops *= 2
            spent = self.run(program, loops, self.off).wall
        return max(1, round(loops * seconds / spent))

    def work(self, program: str, loops: int) -> Work:
        """What publishing takes of a run."""
        self.run(program, 1, self._asked)
        imports = {"PROGRAM_IMPORTS": self._told.read_text()}
        self.run(program, loops, {**self._measured, **imports})
        publishing, everything, regions = self._told.read_text().split()
        return Work(float(publishing), float(everything), int(regions))

    def held(self, program: str, environment: dict[str, str]) -> Held:
        """What is held at the end of a short run."""
        command = [self._python, ROOT / "bench/held.py", *self._worker(program, self.loops(program, ENOUGH))]
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
        answer = json.loads(done.stdout)
        return Held(**answer)

    def _worker(self, program: str, loops: int) -> list[str]:
        script = self._folder / "pyperformance/data-files/benchmarks" / f"bm_{program}/run_benchmark.py"
        return [str(script), "--worker", f"--loops={loops}", "--values=1", "--warmups=0"]

    def pairs(self, program: str, loops: int, rounds: int) -> list[Pair]:
        """Off and on in turns; which comes first changes from round to round."""
        self.run(program, 1, self.on)  # what it imports is compiled then
        found = []
        for number in range(rounds):
            if number % 2:
                on = self.run(program, loops, self.on)
                found.append(Pair(self.run(program, loops, self.off), on))
            else:
                off = self.run(program, loops, self.off)
                found.append(Pair(off, self.run(program, loops, self.on)))
        return found


def mean_and_margin(programs: Sequence[Sequence[float]]) -> tuple[float, str]:
    """The geometric mean of the programs' ratios, and how far off it may be at 95 %, from the spread of the rounds:
    " ± 0.01", or nothing where each has run once."""
    logs = [[math.log(ratio) for ratio in ratios] for ratios in programs]
    mean = math.exp(statistics.fmean(statistics.fmean(each) for each in logs))
    if any(len(each) < 2 for each in logs):
        return mean, ""
    variance = sum(statistics.variance(each) / len(each) for each in logs) / len(logs) ** 2
    return mean, f" ± {WIDE * math.sqrt(variance):.4f}"


def spread(ratios: Sequence[float]) -> str:
    middle = math.exp(statistics.fmean(map(math.log, ratios)))
    if len(ratios) == 1:
        return f"{middle:.4f}"
    return f"{middle:.4f} ({min(ratios):.3f} to {max(ratios):.3f})"


@contextlib.contextmanager
def bench_of(version: str, folder: Path, startup: str, perf: str | None) -> Iterator[Bench]:
    with tempfile.TemporaryDirectory() as place:
        yield Bench(interpreter(version), folder, Path(place), startup, perf)


def run_time(bench: Bench, programs: Sequence[str], rounds: int, seconds: float, aim: float) -> float:
    """Prints a row for each program, and the means; returns that of wall time."""
    print(f"{'':16}{'loops':>8}{'off':>10}{'on':>10}   {'wall time, ratio':24}   {'CPU time, ratio':24}")
    walls, cpus = [], []
    for program in programs:
        loops = bench.loops(program, seconds)
        pairs = bench.pairs(program, loops, rounds)
        walls.append([pair.on.wall / pair.off.wall for pair in pairs])
        cpus.append([pair.on.cpu / pair.off.cpu for pair in pairs])
        off, on = (
            statistics.median(each) for each in zip(*((p.off.wall, p.on.wall) for p in pairs), strict=True)
        )
        print(
            f"{program:16}{loops:>8,}{off:>8.2f} s{on:>8.2f} s   "
            f"{spread(walls[-1]):24}   {spread(cpus[-1]):24}",
            flush=True,
        )
    for name, ratios in (("wall", walls), ("CPU", cpus)):
        mean, margin = mean_and_margin(ratios)
        print(f"{name} time, geometric mean: {mean:.4f}{margin} (aim: at most {aim})")
    return mean_and_margin(walls)[0]


def run_work(bench: Bench, programs: Sequence[str], rounds: int, seconds: float, aim: float) -> None:
    """Prints a row for each program, and the mean."""
    print(
        f"{'':16}{'loops':>8}{'processor time':>18}{'publishing':>14}{'regions':>9}"
        f"{'a region':>12}{'a second':>12}   ratio"
    )
    ratios = []
    for program in programs:
        loops = bench.loops(program, seconds)
        bench.work(program, 1)  # what it imports is compiled then
        works = [bench.work(program, loops) for _ in range(rounds)]
        ratios.append([each.ratio for each in works])
        middle = sorted(works, key=lambda each: each.ratio)[len(works) // 2]
        print(
            f"{program:16}{loops:>8,}{middle.all:>16.2f} s{middle.publishing:>12.3f} s"
            f"{middle.regions:>9,}{1e3 * middle.each:>9.2f} ms{1e3 * middle.per_second:>9.2f} ms"
            f"   {spread(ratios[-1])}",
            flush=True,
        )
    mean, margin = mean_and_margin(ratios)
    print(f"with publishing against without, geometric mean: {mean:.4f}{margin} (aim: at most {aim})")


def bytes_held(versions: Sequence[str], benches: dict[str, Bench], programs: Sequence[str]) -> None:
    """Prints, for each program, the bytes held for an executor: by CPython 3.15 itself, and by jitunwind."""
    print("Bytes held for a published executor, and how many there are (not published: +n)\n")
    titles = (f"CPython {OWN} itself", *(f"jitunwind, {version}, ratio" for version in versions))
    print(f"{'':16}" + "".join(f"{title:>32}" for title in titles))
    ratios: dict[str, list[float]] = {version: [] for version in versions}
    for program in programs:
        own = benches[OWN].held(program, benches[OWN].off)
        row = f"{program:16}{own.each:>15,.0f} for {own.executors:>3} + {own.unpublished:<2}      "
        for version in versions:
            held = benches[version].held(program, benches[version].on)
            ratios[version].append(held.each / own.each)
            row += f"{held.each:>13,.0f} for {held.executors:>3} + {held.unpublished:<2}{ratios[version][-1]:>7.3f}"
        print(row, flush=True)
    for version, found in ratios.items():
        mean = statistics.geometric_mean(found)
        print(f"{version}: ratio {mean:.3f} (geometric mean; aim: at most {BYTES_AIM})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--versions", nargs="+", default=VERSIONS)
    parser.add_argument("--programs", nargs="+", default=PROGRAMS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--measures", nargs="+", choices=MEASURES, default=MEASURES)
    parser.add_argument("--perf", choices=PERF_AIMS, help="write a file for perf, too")
    parser.add_argument("--startup", type=Path, help="what is run at each start, instead of enable()")
    arguments = parser.parse_args()
    enable = f"import jitunwind; jitunwind.enable({arguments.perf!r})\n" if arguments.perf else ENABLE
    startup = arguments.startup.read_text() if arguments.startup else enable
    aim = PERF_AIMS.get(arguments.perf, AIM)
    folder = arguments.folder.resolve()
    writes = f", with a file for perf: {arguments.perf}" if arguments.perf else ""
    with contextlib.ExitStack() as stack:
        versions = {*arguments.versions, *([OWN] if BYTES in arguments.measures else [])}
        benches = {
            each: stack.enter_context(bench_of(each, folder, startup, arguments.perf))
            for each in sorted(versions)
        }
        if BYTES in arguments.measures:
            bytes_held(arguments.versions, benches, arguments.programs)
        for measure, run in ((WORK, run_work), (TIME, run_time)):
            for version in arguments.versions if measure in arguments.measures else ():
                print(f"\nCPython {version}, PYTHON_JIT=1, rounds: {arguments.rounds}{writes}\n")
                run(benches[version], arguments.programs, arguments.rounds, arguments.seconds, aim)


if __name__ == "__main__":
    main()
