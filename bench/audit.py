"""Every table of both CPythons, audited over programs of pyperformance: docs/audit.md.

    python bench/audit.py PYPERFORMANCE [--steps N] [--into FILE]

PYPERFORMANCE is a folder with pyperf and pyperformance in it (`make audit` fetches them). Each program is
stepped for N instructions inside JIT code, 250,000 unless said otherwise; all paths of the code that it has then
are run in the emulator. The recovered tables of that code are encoded, and read back by four readers.
"""

import argparse
import datetime
import os
import platform
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from support import ROOT, VERSIONS, interpreter

sys.path.insert(0, str(ROOT))

from jitunwind.arch.x86_64.effects import decode
from jitunwind.arch.x86_64.registers import X86_64
from jitunwind.audit.ptrace import Tracee
from jitunwind.audit.session import Session
from jitunwind.audit.tables import Published, Recovered
from jitunwind.audit.witness import EMULATED, STEPPED
from jitunwind.cpython.dump import Dump
from jitunwind.elf.image import unwind_file
from jitunwind.elf.machine import Machine
from tests.support.witnesses import WITNESSES, differences

PROGRAMS = (
    *("chaos", "comprehensions", "deepcopy", "deltablue", "fannkuch", "go", "hexiom"),
    *("nbody", "nqueens", "raytrace", "richards", "spectral_norm"),
)
REGISTERS = ("CFA", "RA", "rbx", "rbp", "r12", "r13", "r14", "r15")
TABLES = (Recovered.name, Published.name)
STEPS = 250_000
FOREVER = ("--worker", "--loops=1000000", "--values=1", "--warmups=0")
SECTION = 0x1000_0000
"""Where the encoded tables are said to lie: the interpreters have nothing there."""
HEAD = (
    *("program", "regions", "stepped", "emulated", "of reachable", "recovered: wrong", "unknown"),
    *("published: wrong", "unknown"),
)


def audited(python: str, folder: Path, program: str, steps: int) -> tuple[dict[str, Any], Dump]:
    """The report on one program, and the code that it had."""
    script = folder / "pyperformance/data-files/benchmarks" / f"bm_{program}" / "run_benchmark.py"
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHON_JIT": "1"}
    session = Session(TABLES, emulate=True, static=False, tell=lambda text: None)
    with open(os.devnull, "wb") as nowhere:
        tracee = Tracee.start([python, str(script), *FOREVER], environment, nowhere.fileno())
        session.step(tracee, steps, single_step=False)
    session.look_offline()
    if session.dump is None or session.warnings:
        raise SystemExit(f"{program}: {session.problem}; {', '.join(session.warnings)}")
    return session.report(program), session.dump


def read_back(dump: Dump) -> tuple[int, int, list[str]]:
    """Regions, rows, and where a reader of the encoded tables says something else than they do."""
    recovered = Recovered(X86_64, decode)
    tables = [(code.start, recovered.of(code)) for code in dump.codes]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tables.elf")
        path.write_bytes(unwind_file(Machine.X86_64, X86_64, tables, SECTION))
        wrong = [each for witness in WITNESSES for each in differences(witness, path, tables)]
    return len(tables), sum(len(table.rows) for _, table in tables), wrong


def version_of(python: str) -> str:
    return subprocess.run([python, "--version"], capture_output=True, text=True, check=True).stdout.strip()


def line(cells: list[object]) -> str:
    return f"| {' | '.join(f'{cell:,}' if isinstance(cell, int) else str(cell) for cell in cells)} |"


def section(version: str, folder: Path, steps: int) -> list[str]:
    python = interpreter(version)
    lines = [f"## {version_of(python)}", "", line([*HEAD]), line(["---", *["---:"] * (len(HEAD) - 1)])]
    totals: Counter[str] = Counter()
    sums: Counter[int] = Counter()
    wrong = {name: Counter[str]() for name in TABLES}
    for program in PROGRAMS:
        report, dump = audited(python, folder, program, steps)
        regions, rows, misread = read_back(dump)
        coverage, judged, counts = report["coverage"], report["witnesses"], report["counts"]
        covered = coverage[STEPPED] + coverage[EMULATED]
        verdicts = [report["tables"][name][verdict] for name in TABLES for verdict in ("wrong", "unknown")]
        figures = [regions, judged[STEPPED], judged[EMULATED]]
        lines.append(line([program, *figures, f"{covered / coverage['reachable']:.1%}", *verdicts]))
        print(lines[-1], f"{counts['recorded']:,} recorded", *misread[:3], flush=True)
        sums.update(dict(enumerate([*figures, *verdicts])))
        totals.update(covered=covered, reachable=coverage["reachable"], rows=rows, misread=len(misread))
        totals.update(
            {name: counts[name] for name in ("returns", "bad_returns", "exits", "bad_exits", "recorded")}
        )
        for name in TABLES:
            registers = report["tables"][name]["registers"]
            wrong[name].update({each: tally["wrong"] for each, tally in registers.items()})
    share = f"{totals['covered'] / totals['reachable']:.1%}"
    lines.append(line(["**all**", *(sums[i] for i in range(3)), share, *(sums[i] for i in range(3, 7))]))
    lines += ["", "Wrong, by register:", "", line(["table", *REGISTERS]), line(["---", *["---:"] * 8])]
    lines += [line([name, *(counts[register] for register in REGISTERS)]) for name, counts in wrong.items()]
    readers = ", ".join(witness.name for witness in WITNESSES)
    return [
        *lines,
        "",
        f"{totals['recorded']:,} of the stepped instructions were recorded by the code itself, the others stepped by "
        f"the kernel. {totals['returns']:,} activations were stepped to their return, {totals['bad_returns']:,} of "
        "which came back elsewhere or with other registers than the ground truth says. In the emulator "
        f"{totals['exits']:,} paths left their region as it was entered, {totals['bad_exits']:,} otherwise.",
        "",
        f"Encoded as `.eh_frame`, the {totals['rows']:,} recovered rows of all {sums[0]:,} regions were read back by "
        f"{readers}: {totals['misread']:,} differences.",
        "",
    ]


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
        f"{arguments.steps:,} instructions inside JIT code per program are stepped, each judged by what was recorded "
        "at the call that entered it. Then all paths of the code that the program has by then are run in the "
        "emulator: *emulated* counts what that adds, *of reachable* is the share of reachable instructions that "
        "either has judged (code that was freed before is stepped only). An instruction counts as wrong when the "
        "CFA, the return address or any callee-saved register of the caller is. CPython 3.14 publishes nothing.",
        "",
    ]
    for version in VERSIONS:
        lines += section(version, arguments.folder.resolve(), arguments.steps)
    if arguments.into is not None:
        arguments.into.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
