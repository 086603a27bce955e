"""How jitunwind does with builds of CPython that it was not developed on: debug builds, and what is left of an aim.

    python bench/builds.py [--stops N] [--steps N] [--kinds …] [--versions …]

For each build six programs (tests/live/programs) are stopped N times each: the share of stacks that are whole, of JIT
frames that are named and have a line, and for how long the process stood still. N instructions of their JIT code are
stepped and judged, with the reasons of what is unknown: by the recovered tables, and by what programs publish that
`jitunwind run` has started, which starts no programs that embed Python. Last a program that ends is run plain and by
`jitunwind run`: the processor time of both, and how long the end of the process waited.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from support import ROOT, VERSIONS, interpreter

from jitunwind.stacks.library import stacks
from jitunwind.stacks.model import FrameKind, Stacks

KINDS = {
    "pydebug": ["--pydebug"],
    "other patch release": ["--suite", "testing"],
    "embedded, shared": ["--embedded", "shared"],
    "embedded, static": ["--embedded", "static"],
}
LIVE_PROGRAMS = ROOT / "tests/live/programs"
PROGRAMS = ("attributes", "calls", "floats", "generators", "loops", "strings")
FINITE = (ROOT / "bench/finite.py", "40", "40", "20000")
"""So much code that publishing it takes longer than a debug build's program itself."""
OWN = [sys.executable, "-m", "jitunwind"]
LONGEST = 600


@cache
def build(version: str, kind: str) -> str:
    return interpreter(version, *KINDS[kind])


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHON_JIT": "1", "PYTHONPATH": str(LIVE_PROGRAMS)}


def started(command: list[str]) -> "subprocess.Popen[str]":
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        raise SystemExit(f"{command} did not become ready")
    return process


@contextmanager
def running(python: str, program: str, *by: str) -> Iterator[int]:
    process = started([*by, python, str(LIVE_PROGRAMS / f"{program}.py")])
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


class Looked(NamedTuple):
    """Counts of stacks, of those that are whole, of JIT frames, and of those with a name and a line; seconds."""

    counts: Counter[str]
    stopped: list[float]
    taken: list[float]


def looked(pid: int, times: int, found: Looked) -> None:
    for _ in range(times):
        began = time.perf_counter()
        said = stacks(pid)
        found.taken.append(time.perf_counter() - began)
        found.stopped.append(said.stopped_seconds)
        note(said, found)


def note(said: Stacks, found: Looked) -> None:
    found.counts["stacks"] += len(said.threads)
    found.counts["whole"] += sum(not thread.reason for thread in said.threads)
    frames = [frame for thread in said.threads for frame in thread.frames if frame.kind is FrameKind.JIT]
    found.counts["JIT frames"] += len(frames)
    found.counts["named"] += sum(bool(frame.function and frame.line and frame.exact) for frame in frames)


def in_counts(what: str, found: Looked) -> str:
    counts = found.counts
    return (
        f"  {what}: {counts['whole']:,} of {counts['stacks']:,} stacks whole, "
        f"{counts['named']:,} of {counts['JIT frames']:,} JIT frames exact, named and with a line"
    )


def audited(*arguments: object) -> dict[str, Any]:
    command = [*OWN, "audit", "--json", *map(str, arguments)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=LONGEST)
    if done.returncode not in (0, 1):
        raise SystemExit(f"{command}: {done.stderr}")
    tables: dict[str, Any] = json.loads(done.stdout)["tables"]
    (table,) = tables.values()
    return table  # type: ignore[no-any-return]


def look_at_core(pid: int, found: Looked) -> None:
    with tempfile.TemporaryDirectory() as folder:
        prefix = Path(folder, "core")
        subprocess.run(["gcore", "-o", prefix, str(pid)], capture_output=True, check=True)
        note(stacks(prefix.with_name(f"core.{pid}")), found)


def in_words(what: str, tables: list[dict[str, Any]]) -> str:
    total, reasons = Counter[str](), Counter[str]()
    for table in tables:
        total.update({name: table[name] for name in ("instructions", "exact", "wrong", "unknown")})
        reasons.update(table["reasons"])
    counts = ", ".join(f"{total[name]:,} {name}" for name in ("exact", "wrong", "unknown"))
    causes = "".join(f"\n    {count:,} unknown: {reason}" for reason, count in reasons.most_common())
    return f"  {what}: {total['instructions']:,} instructions, {counts}{causes}"


def explained(pid: int) -> tuple[int, int, int]:
    """Regions, those whose micro-ops are all shown, and micro-ops."""
    command = [*OWN, "explain", "--json", str(pid)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST)
    if done.returncode:
        raise SystemExit(f"{command}: {done.stderr}")
    regions = json.loads(done.stdout)["regions"]
    return (
        len(regions),
        sum(not each["problem"] for each in regions),
        sum(each["micro_ops"] for each in regions),
    )


def run_to_its_end(command: list[str]) -> tuple[float, float]:
    """Processor seconds of the process, and seconds between the program's end and that of the process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    ended, after = time.time(), resource.getrusage(resource.RUSAGE_CHILDREN)
    said = float(done.stderr.splitlines()[-1].split()[0])
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, ended - said


def judge(version: str, kind: str, stops: int, steps: int) -> None:
    python, is_embedded = build(version, kind), kind.startswith("embedded")
    asked = [python, "-c", "import platform; print(platform.python_version())"]
    patch = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    print(f"CPython {patch}, {kind}")
    found, dead = Looked(Counter(), [], []), Looked(Counter(), [], [])
    stepped, published = list[dict[str, Any]](), list[dict[str, Any]]()
    micro_ops = Counter[str]()
    for program in PROGRAMS:
        with running(python, program) as pid:
            looked(pid, stops, found)
            look_at_core(pid, dead)
            shown = explained(pid)
            micro_ops.update(dict(zip(("regions", "shown", "micro-ops"), shown, strict=True)))
            stepped.append(audited("--table", "recovered", "--steps", steps // len(PROGRAMS), pid))
        if is_embedded:
            continue
        with running(python, program, *OWN, "run", "--python") as pid:
            published.append(audited("--table", "published", "--steps", steps // len(PROGRAMS), pid))
    print(in_counts("bt", found))
    print(in_counts("bt of a core of each", dead))
    print(
        f"  bt: the process stood still for {1e3 * statistics.median(found.stopped):.1f} ms (median), "
        f"{1e3 * max(found.stopped):.1f} ms (worst); all in all {1e3 * statistics.median(found.taken):.0f} ms (median)"
    )
    print(
        f"  explain: {micro_ops['micro-ops']:,} micro-ops; all of them in {micro_ops['shown']} of "
        f"{micro_ops['regions']} regions"
    )
    print(in_words("audit, recovered, stepped", stepped))
    if is_embedded:
        return
    print(in_words("audit, published, stepped", published))
    command = [python, *map(str, FINITE)]
    plain, _ = run_to_its_end(command)
    run, end = run_to_its_end([*OWN, "run", "--python", *command])
    print(
        f"  run: {run:.1f} s of processor time for a program of {plain:.1f} s; its end waited {1e3 * end:.0f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--stops", type=int, default=50, help="of each program")
    parser.add_argument("--steps", type=int, default=102_000, help="in all six programs")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=[*KINDS])
    parser.add_argument("--versions", nargs="+", choices=VERSIONS, default=VERSIONS)
    options = parser.parse_args()
    for kind in options.kinds:
        for version in options.versions:
            judge(version, kind, options.stops, options.steps)


if __name__ == "__main__":
    main()
