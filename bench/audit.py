"""Every table of both CPythons, audited over many programs: docs/audit.md.

    python bench/audit.py PYPERFORMANCE [--arch NAME] [--steps N] [--into FILE]

PYPERFORMANCE is a folder with pyperf and pyperformance in it (`make audit` fetches them). Each of its programs is
stepped for N instructions inside JIT code, 250,000 unless said otherwise; those of another architecture run in qemu's
emulation, tens of times slower: there each of some smaller programs (tests/live/programs) for 4,000. All paths of the
code that it has then are run in the emulator. The tables of x86_64's code are judged as libgcc and libunwind execute
them, too, at each stepped instruction; encoded, they are read back by four decoders. With --arch NAME only that
architecture is audited, and what FILE says of the others stays.
"""

import argparse
import datetime
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from support import ROOT, VERSIONS, interpreter

sys.path.insert(0, str(ROOT))

from jitunwind.arch import Architecture
from jitunwind.arch.known import ARCHITECTURES, decoder
from jitunwind.arch.x86_64.registers import X86_64
from jitunwind.audit.ptrace import Tracee, steps_natively
from jitunwind.audit.records import judged_registers, not_judged
from jitunwind.audit.remote import RemoteTracee
from jitunwind.audit.session import Session
from jitunwind.audit.steppable import Steppable
from jitunwind.audit.subject import dump_of_remote
from jitunwind.audit.witness import EMULATED, STEPPED
from jitunwind.elf.image import unwind_file
from jitunwind.jits.dump import Dump
from jitunwind.tables.sources import Published, Recovered
from tests.support.witnesses import WITNESSES, differences

PROGRAMS = (
    *("chaos", "comprehensions", "deepcopy", "deltablue", "fannkuch", "go", "hexiom"),
    *("nbody", "nqueens", "raytrace", "richards", "spectral_norm"),
)
SMALL = (
    *("attributes", "audit_signals", "calls", "exceptions", "floats", "generators", "loops", "recursion"),
    *("side_exits", "strings", "throws"),
)
VARIED = ROOT / "tests/live/programs/varied.py"
FUNCTIONS, STATEMENTS = {"3.14": 14, "3.15": 40}, 40
"""Of that program: enough for 200,000 instructions of JIT code."""
TABLES = (Recovered.name, Published.name)
READERS = ("libgcc", "libunwind")
STEPS, EMULATED_STEPS = 250_000, 4_000
FOREVER = ("--worker", "--loops=1000000", "--values=1", "--warmups=0")
SECTION = 0x1000_0000
"""Where the encoded tables are said to lie: the interpreters have nothing there."""
VERDICTS = ("instructions", "exact", "wrong", "unknown")
HEAD = (
    *("program", "regions", "stepped", "emulated", "of reachable", "recovered: wrong", "unknown"),
    *("published: wrong", "unknown"),
)


def started(arch: Architecture, command: Sequence[str], path: Path, output: int) -> Steppable:
    environment = {**os.environ, "PYTHON_JIT": "1", "PYTHONPATH": str(path)}
    if arch is steps_natively():
        return Tracee.start(command, environment, output)
    return RemoteTracee.start(command, environment, output, arch)


def audited(
    arch: Architecture, python: str, folder: Path, program: str, steps: int
) -> tuple[dict[str, Any], Dump]:
    """The report on one program, and the code that it had."""
    command = [str(folder / f"pyperformance/data-files/benchmarks/bm_{program}/run_benchmark.py"), *FOREVER]
    if program in SMALL:
        folder = VARIED.parent
        command = [str(folder / f"{program}.py")]
    readers = READERS if arch is X86_64 is steps_natively() else ()
    session = Session(TABLES, emulate=True, static=False, tell=lambda text: None, readers=readers)
    with open(os.devnull, "wb") as nowhere:
        tracee = started(arch, [python, *command], folder, nowhere.fileno())
        session.step(tracee, steps, single_step=False)
    return reported(session, program)


def varied(arch: Architecture, python: str, version: str) -> tuple[dict[str, Any], Dump]:
    """The same of a program with much JIT code of many kinds, none of which is stepped."""
    session = Session(TABLES, emulate=True, static=False, tell=lambda text: None)
    said, output = os.pipe()
    command = [python, str(VARIED), str(FUNCTIONS[version]), str(STATEMENTS)]
    tracee = started(arch, command, VARIED.parent, output)
    os.close(output)
    tracee.go_on()
    with os.fdopen(said) as lines:
        if lines.readline().strip() != "ready":
            raise SystemExit("the varied program is not ready")
    tracee.stop()
    session.dump = dump_of_remote(tracee, session.warn)
    return reported(session, VARIED.stem)


def reported(session: Session, program: str) -> tuple[dict[str, Any], Dump]:
    session.look_offline()
    if session.dump is None or session.warnings:
        raise SystemExit(f"{program}: {session.problem}; {', '.join(session.warnings)}")
    return session.report(program), session.dump


def read_back(dump: Dump) -> tuple[int, int, list[str]]:
    """Regions, rows, and where a decoder of the encoded tables says something else than they do."""
    recovered = Recovered(X86_64, decoder(X86_64))
    tables = [(code.start, recovered.of(code)) for code in dump.codes]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tables.elf")
        path.write_bytes(unwind_file(X86_64.elf_machine, X86_64, tables, SECTION))
        wrong = [each for witness in WITNESSES for each in differences(witness, path, tables)]
    return len(tables), sum(len(table.rows) for _, table in tables), wrong


def version_of(python: str, arch: Architecture) -> str:
    runner = [] if arch is steps_natively() else [f"qemu-{arch.name}"]
    return subprocess.run(
        [*runner, python, "--version"], capture_output=True, text=True, check=True
    ).stdout.strip()


def emulation(arch: Architecture) -> str:
    """What the architecture's programs run in; empty for this machine itself."""
    if arch is steps_natively():
        return ""
    said = subprocess.run(
        [f"qemu-{arch.name}", "--version"], capture_output=True, text=True, check=True
    ).stdout
    return " ".join(said.splitlines()[0].split()[:3])


def line(cells: list[object]) -> str:
    return f"| {' | '.join(f'{cell:,}' if isinstance(cell, int) else str(cell) for cell in cells)} |"


def section(arch: Architecture, version: str, folder: Path, steps: int) -> list[str]:
    emulated = emulation(arch)
    options = ["--arch", arch.name] if emulated else []
    python = interpreter(version, *options)
    today = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}"
    lines = [
        f"## {version_of(python, arch)}, {arch.name}",
        "",
        f"Made on {today}{f', in {emulated}' if emulated else ''}: {steps:,} instructions of each program stepped.",
        "",
        line([*HEAD]),
        line(["---", *["---:"] * (len(HEAD) - 1)]),
    ]
    registers = ("CFA", "RA", *(arch.register_names[register] for register in judged_registers(arch)))
    totals: Counter[str] = Counter()
    sums: Counter[int] = Counter()
    wrong = {name: Counter[str]() for name in TABLES}
    read: dict[str, Counter[str]] = {}
    libraries: dict[str, str] = {}
    for program in (*SMALL, VARIED.stem) if emulated else PROGRAMS:
        if program == VARIED.stem:
            report, dump = varied(arch, python, version)
        else:
            report, dump = audited(arch, python, folder, program, steps)
        regions, rows, misread = read_back(dump) if arch is X86_64 else (len(dump.codes), 0, [])
        coverage, judged, counts = report["coverage"], report["witnesses"], report["counts"]
        covered = coverage[STEPPED] + coverage[EMULATED]
        verdicts = [report["tables"][name][verdict] for name in TABLES for verdict in ("wrong", "unknown")]
        figures = [regions, judged[STEPPED], judged[EMULATED]]
        lines.append(line([program, *figures, f"{covered / coverage['reachable']:.1%}", *verdicts]))
        print(lines[-1], f"{counts.get('recorded', 0):,} recorded", *misread[:3], flush=True)
        sums.update(dict(enumerate([*figures, *verdicts])))
        totals.update(covered=covered, reachable=coverage["reachable"], rows=rows, misread=len(misread))
        totals.update(
            {
                name: counts.get(name, 0)
                for name in ("returns", "bad_returns", "exits", "bad_exits", "recorded")
            }
        )
        for name in TABLES:
            tallies = report["tables"][name]["registers"]
            wrong[name].update({each: tally["wrong"] for each, tally in tallies.items()})
        libraries |= report["readers"]
        for name in (f"{table}/{reader}" for table in TABLES for reader in report["readers"]):
            verdicts_of = {verdict: report["tables"][name][verdict] for verdict in VERDICTS}
            read.setdefault(name, Counter()).update(verdicts_of)
    share = f"{totals['covered'] / totals['reachable']:.1%}"
    lines.append(line(["**all**", *(sums[i] for i in range(3)), share, *(sums[i] for i in range(3, 7))]))
    lines += [
        "",
        "Wrong, by register:",
        "",
        line(["table", *registers]),
        line(["---", *["---:"] * len(registers)]),
    ]
    lines += [line([name, *(counts[register] for register in registers)]) for name, counts in wrong.items()]
    if read:
        libraries_read = "; ".join(f"{name}: {os.path.basename(path)}" for name, path in libraries.items())
        lines += [
            "",
            f"As unwinders execute the tables, at each stepped instruction ({libraries_read}):",
            "",
            line(["table/unwinder", *VERDICTS]),
            line(["---", *["---:"] * len(VERDICTS)]),
        ]
        lines += [line([name, *(counts[verdict] for verdict in VERDICTS)]) for name, counts in read.items()]
    apart = not_judged(arch)
    lines += ["", f"Not judged: {', '.join(apart)}."] if apart else []
    recorded = (
        f"{totals['recorded']:,} of the stepped instructions were recorded by the code itself, the others stepped by "
        "the kernel. "
    )
    lines += [
        "",
        f"{'' if emulated else recorded}{totals['returns']:,} activations were stepped to their return, "
        f"{totals['bad_returns']:,} of which came back elsewhere or with other registers than the ground truth says. "
        f"In the emulator {totals['exits']:,} paths left their region as it was entered, {totals['bad_exits']:,} "
        "otherwise.",
        "",
    ]
    if arch is X86_64:
        decoders = ", ".join(witness.name for witness in WITNESSES)
        lines += [
            f"Encoded as `.eh_frame`, the {totals['rows']:,} recovered rows of all {sums[0]:,} regions were read back "
            f"by {decoders}: {totals['misread']:,} differences.",
            "",
        ]
    return lines


HEADING = [
    "# Audit over many programs",
    "",
    "Made by `make audit`. Instructions inside JIT code are stepped, each judged by what was recorded at the call that "
    "entered it. Then all paths of the code that the program has by then are run in the emulator: *emulated* counts "
    "what that adds, *of reachable* is the share of reachable instructions that either has judged (code that was "
    "freed before is stepped only). An instruction counts as wrong when the CFA, the return address or any "
    "callee-saved register of the caller is. CPython 3.14 publishes nothing. The programs are pyperformance's; those "
    "of tests/live/programs where the architecture is not the machine's, and qemu-user runs them: they are stepped "
    "through its stub. *varied* is not stepped, and has much JIT code for the emulator.",
    "",
]


def kept(path: Path | None, arch: Architecture) -> str:
    """What the document says of an architecture."""
    text = path.read_text() if path is not None and path.is_file() else ""
    parts = re.split(r"(?m)^(?=## )", text)
    own = [part.rstrip("\n") for part in parts if part.partition("\n")[0].endswith(f", {arch.name}")]
    return "".join(f"{part}\n\n" for part in own)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--arch", choices=ARCHITECTURES)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--into", type=Path)
    arguments = parser.parse_args()
    text = "\n".join(HEADING) + "\n"
    for arch in ARCHITECTURES.values():
        if arguments.arch not in (None, arch.name):
            text += kept(arguments.into, arch)
            continue
        steps = arguments.steps or (STEPS if arch is steps_natively() else EMULATED_STEPS)
        for version in VERSIONS:
            text += "\n".join(section(arch, version, arguments.folder.resolve(), steps)) + "\n"
    if arguments.into is not None:
        arguments.into.write_text(text.rstrip("\n") + "\n")


if __name__ == "__main__":
    main()
