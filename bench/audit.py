"""Every table of both CPythons, audited over programs of pyperformance: docs/audit.md.

    python bench/audit.py PYPERFORMANCE [--steps N] [--into FILE]

PYPERFORMANCE is a folder with pyperf and pyperformance in it (`make audit` fetches them). Each program is
stepped for N instructions inside JIT code, 90,000 unless said otherwise.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from support import VERSIONS, interpreter

PROGRAMS = (
    *("chaos", "comprehensions", "deepcopy", "deltablue", "fannkuch", "go", "hexiom"),
    *("nbody", "nqueens", "raytrace", "richards", "spectral_norm"),
)
REGISTERS = ("CFA", "RA", "rbx", "rbp", "r12", "r13", "r14", "r15")
STEPS = 90_000
JITUNWIND = str(Path(sys.executable).with_name("jitunwind"))
FOREVER = ("--worker", "--loops=1000000", "--values=1", "--warmups=0")


def audited(python: str, folder: Path, program: str, steps: int) -> dict[str, Any]:
    """The report on one program."""
    script = folder / "pyperformance/data-files/benchmarks" / f"bm_{program}" / "run_benchmark.py"
    command = [JITUNWIND, "audit", "--json", "--steps", str(steps), "--", python, str(script), *FOREVER]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in (0, 1):
        raise SystemExit(f"{program}: {done.stderr.strip()}")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def version_of(python: str) -> str:
    return subprocess.run([python, "--version"], capture_output=True, text=True, check=True).stdout.strip()


def line(cells: list[object]) -> str:
    return f"| {' | '.join(f'{cell:,}' if isinstance(cell, int) else str(cell) for cell in cells)} |"


def section(version: str, folder: Path, steps: int) -> list[str]:
    python = interpreter(version)
    lines = [f"## {version_of(python)}", ""]
    head = [
        "program",
        "regions",
        "instructions",
        "recovered: wrong",
        "unknown",
        "published: wrong",
        "unknown",
    ]
    lines += [line(head), line(["---", *["---:"] * (len(head) - 1)])]
    totals: Counter[str] = Counter()
    wrong = {name: Counter[str]() for name in ("recovered", "published")}
    for program in PROGRAMS:
        report = audited(python, folder, program, steps)
        recovered, published = report["tables"]["recovered"], report["tables"]["published"]
        cells = [len(report["regions"]), recovered["instructions"]]
        cells += [table[verdict] for table in (recovered, published) for verdict in ("wrong", "unknown")]
        lines.append(line([program, *cells]))
        print(lines[-1], f"{recovered['instructions'] / report['seconds']:,.0f}/s", flush=True)
        totals.update(dict(zip(head[1:5], cells, strict=False)))
        totals.update({"published wrong": cells[4], "published unknown": cells[5]})
        totals.update({"returns": report["counts"]["returns"], "bad": report["counts"]["bad_returns"]})
        for name, table in (("recovered", recovered), ("published", published)):
            wrong[name].update({each: tally["wrong"] for each, tally in table["registers"].items()})
    sums = [totals[key] for key in (*head[1:5], "published wrong", "published unknown")]
    lines.append(line(["**all**", *sums]))
    lines += ["", "Wrong, by register:", "", line(["table", *REGISTERS]), line(["---", *["---:"] * 8])]
    lines += [line([name, *(counts[register] for register in REGISTERS)]) for name, counts in wrong.items()]
    lines += [
        "",
        f"{totals['returns']:,} activations were stepped to their return, {totals['bad']:,} of which came back "
        "elsewhere or with other registers than the ground truth says.",
        "",
    ]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--into", type=Path)
    arguments = parser.parse_args()
    lines = [
        "# Audit over programs of pyperformance",
        "",
        f"Made by `make audit` on {datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {platform.machine()}; "
        f"{arguments.steps:,} instructions inside JIT code per program, each judged by what was recorded at "
        "the call that entered it. An instruction counts as wrong when the CFA, the return address or any "
        "callee-saved register of the caller is. CPython 3.14 publishes nothing.",
        "",
    ]
    for version in VERSIONS:
        lines += section(version, arguments.folder.resolve(), arguments.steps)
    if arguments.into is not None:
        arguments.into.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
