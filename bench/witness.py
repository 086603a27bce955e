"""The recoverer's independent witness: recovered tables against what compilers wrote in `.eh_frame`.

`python bench/witness.py FILE...` judges every instruction of every function of x86_64 files and prints, per
file, how many agree, which disagree and how, and which cannot be judged and why. Exits with 1 where a file's
share is below `--floor`.
"""

import argparse
import json
import multiprocessing
import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from iced_x86 import Decoder, Formatter, FormatterSyntax

from jitunwind.arch import Architecture
from jitunwind.audit.compare import PADDING, Finding, Wrong
from jitunwind.audit.functions import Program, Report
from jitunwind.audit.rounds import Job, Run, judge_all
from jitunwind.elf.inspect import ElfFile
from jitunwind.errors import JitunwindError
from jitunwind.recover.state import Entry, State, Value
from jitunwind.rows import CfaRule, InRegister, RegisterRule, Row, SameValue, SavedAt, Unknown

_CHUNK = 32
_EXAMPLES = 3
_AROUND = 5
"""Instructions shown on each side of an example."""


@dataclass
class Example:
    """One disagreement, for a person to look at."""

    about: str
    function: str
    address: str
    instructions: int
    table_says: str
    recovered: str
    disassembly: list[str]


@dataclass
class Result:
    """One file's figures. `judged` is `exact` plus `wrong`; padding is in neither `judged` nor `unknown`."""

    file: str
    functions: int
    cold_parts: int
    seeded: int
    instructions: int
    padding: int
    judged: int
    exact: int
    share: float
    wrong: dict[str, int]
    unknown: dict[str, int]
    wrong_functions: int
    assumed_calls: int
    unresolved_jumps: int
    off_balance_returns: int
    seconds: float
    instructions_per_second: int
    slowest_function: float
    examples: list[Example]


_shared: dict[str, Any] = {}
"""What forked children have from this process without its being sent."""


def _judge(job: Job) -> Report:
    program: Program = _shared["program"]
    return program.judge(*job, _shared["never"])


def in_parallel(program: Program, processes: int) -> Run:
    """Judges in `processes` forked children, which share the file's bytes with this process."""

    def run(jobs: Sequence[Job], never: frozenset[int]) -> Iterator[Report]:
        if not jobs:
            return
        _shared.update(program=program, never=never)
        with multiprocessing.get_context("fork").Pool(processes) as pool:
            for done, report in enumerate(pool.imap_unordered(_judge, jobs, _CHUNK), 1):
                if done % 1000 == 0 or done == len(jobs):
                    print(f"\r  {done}/{len(jobs)} functions", end="", file=sys.stderr, flush=True)
                yield report
        print(file=sys.stderr)

    return run


def witness(path: Path, processes: int, examples: int) -> Result:
    """Judge one file."""
    began = time.perf_counter()
    print(path, file=sys.stderr)
    program = Program(path)
    reports = judge_all(program, in_parallel(program, processes))
    seconds = time.perf_counter() - began
    wrong: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    exact = padding = 0
    for report in reports.values():
        exact += report.comparison.exact
        wrong += report.comparison.wrong
        unknown += report.comparison.unknown
    padding = unknown.pop(PADDING, 0)
    judged = exact + wrong.total()
    instructions = judged + unknown.total() + padding
    parts = sum(not program.is_entry(index) for index in reports)
    return Result(
        file=str(path),
        functions=len(reports) - parts,
        cold_parts=parts,
        seeded=sum(report.seeded for report in reports.values()),
        instructions=instructions,
        padding=padding,
        judged=judged,
        exact=exact,
        share=exact / judged if judged else 0.0,
        wrong=dict(wrong.most_common()),
        unknown=dict(unknown.most_common()),
        wrong_functions=sum(bool(report.comparison.wrong) for report in reports.values()),
        assumed_calls=sum(report.assumed for report in reports.values()),
        unresolved_jumps=sum(report.unresolved for report in reports.values()),
        off_balance_returns=sum(report.off_balance for report in reports.values()),
        seconds=round(seconds, 2),
        instructions_per_second=round(instructions / seconds),
        slowest_function=round(max((r.seconds for r in reports.values()), default=0.0), 2),
        examples=_examples(program, reports.values(), examples),
    )


def _examples(program: Program, reports: Iterable[Report], limit: int) -> list[Example]:
    """The first findings of each class of disagreement, one of a function."""
    seen: Counter[str] = Counter()
    names = _Names(program.elf)
    found: list[Example] = []
    for report in sorted(reports, key=lambda report: report.index):
        about_here: set[str] = set()
        for finding in report.comparison.findings:
            if not isinstance(finding.verdict, Wrong) or finding.verdict.about in about_here:
                continue
            about = finding.verdict.about
            about_here.add(about)
            seen[about] += 1
            if seen[about] <= limit:
                found.append(_example(program, report, finding, about, names))
    return sorted(found, key=lambda example: example.about)


def _example(program: Program, report: Report, finding: Finding, about: str, names: "_Names") -> Example:
    fde = program.fdes[report.index]
    address = fde.start + finding.offset
    return Example(
        about,
        names.of(fde.start, address),
        f"{address:#x}",
        finding.count,
        _say_row(program.arch, finding.row),
        _say_state(program.arch, finding.state),
        _disassemble(program.elf.read(fde.start, fde.size), fde.start, address),
    )


class _Names:
    """Functions' names, from the file and its debug file."""

    def __init__(self, elf: ElfFile) -> None:
        debug = elf.debug_file()
        sources = [elf, ElfFile(debug)] if debug is not None else [elf]
        self._by_address = {s.address: s.name for source in sources for s in source.functions() if s.address}

    def of(self, start: int, address: int) -> str:
        return f"{self._by_address.get(start, hex(start))}+{address - start:#x}"


def _disassemble(code: bytes, start: int, address: int) -> list[str]:
    formatter = Formatter(FormatterSyntax.GAS)
    lines = [(ins.ip, formatter.format(ins)) for ins in Decoder(64, code, ip=start)]
    at = next((i for i, (ip, _) in enumerate(lines) if ip >= address), len(lines))
    window = lines[max(0, at - _AROUND) : at + _AROUND + 1]
    return [f"{'=>' if ip == address else '  '} {ip:x}: {text}" for ip, text in window]


def _say_rule(arch: Architecture, rule: RegisterRule) -> str:
    if isinstance(rule, SavedAt):
        return f"at CFA{rule.offset:+d}"
    if isinstance(rule, InRegister):
        return f"in {arch.register_names[rule.register]}"
    return "unchanged" if isinstance(rule, SameValue) else "undefined"


def _say_cfa(arch: Architecture, rule: CfaRule) -> str:
    return f"CFA={arch.register_names[rule.register]}{rule.offset:+d}"


def _say_row(arch: Architecture, row: Row | Unknown) -> str:
    if isinstance(row, Unknown):
        return row.reason
    rules = (
        f"{arch.register_names[register]} {_say_rule(arch, rule)}"
        for register, rule in row.rules
        if register < len(arch.register_names) and rule != SameValue()
    )
    return ", ".join((_say_cfa(arch, row.cfa), *rules))


def _say_value(arch: Architecture, value: Value) -> str:
    return arch.register_names[value.register] if isinstance(value, Entry) else f"CFA{value:+d}"


def _say_state(arch: Architecture, state: State | None) -> str:
    if state is None:
        return "not reached"
    registers = (
        f"{arch.register_names[r]}={_say_value(arch, v)}"
        for r, v in sorted(state.registers.items())
        if v != Entry(r)
    )
    slots = (
        f"[CFA{at:+d}]={_say_value(arch, value)}" for at, value in sorted(state.slots.items(), reverse=True)
    )
    return ", ".join((*registers, *slots))


def markdown(results: Sequence[Result]) -> str:
    """The generated part of docs/witness.md."""
    lines = [
        f"Generated on {datetime.now(UTC):%Y-%m-%d} by `python bench/witness.py`, with iced-x86 "
        f"{version('iced-x86')}, pyelftools {version('pyelftools')}, Python {platform.python_version()}.",
        "",
        "| file | functions | cold parts | instructions | judged | agree | share | functions that disagree | "
        "instructions/s |",
        "| --- | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for r in results:
        lines.append(
            f"| {Path(r.file).name} | {r.functions:,} | {r.cold_parts:,} | {r.instructions:,} | "
            f"{r.judged:,} | {r.exact:,} | {r.share:.4%} | {r.wrong_functions:,} | "
            f"{r.instructions_per_second:,} |"
        )
    for r in results:
        lines += ["", f"### {Path(r.file).name}", ""]
        lines += [
            f"{r.padding:,} instructions are padding between blocks; {r.seeded:,} parts are judged from "
            f"their FDE's own first row; {r.assumed_calls:,} calls are taken never to return; "
            f"{r.unresolved_jumps:,} indirect jumps are not understood; "
            f"{r.off_balance_returns:,} returns leave the stack or a register other than they found it.",
            "",
            "| verdict | class or reason | instructions |",
            "| --- | --- | --: |",
        ]
        lines += [f"| wrong | {about} | {count:,} |" for about, count in r.wrong.items()]
        lines += [f"| unknown | {reason} | {count:,} |" for reason, count in r.unknown.items()]
    return "\n".join(lines) + "\n"


def text(results: Sequence[Result]) -> str:
    """For a terminal."""
    lines: list[str] = []
    for r in results:
        lines += [
            f"{r.file}",
            f"  {r.functions:,} functions, {r.cold_parts:,} cold parts ({r.seeded:,} of them seeded); "
            f"{r.instructions:,} instructions, {r.padding:,} of them padding",
            f"  judged {r.judged:,}, exact {r.exact:,}: {r.share:.4%}; "
            f"{r.wrong_functions:,} functions disagree somewhere",
            f"  {r.assumed_calls:,} calls taken never to return, {r.unresolved_jumps:,} indirect jumps not "
            f"understood, {r.off_balance_returns:,} returns off balance",
            f"  {r.seconds} s, {r.instructions_per_second:,} instructions/s, slowest function "
            f"{r.slowest_function} s",
        ]
        lines += [f"    wrong   {count:>9,}  {about}" for about, count in r.wrong.items()]
        lines += [f"    unknown {count:>9,}  {reason}" for reason, count in r.unknown.items()]
        for example in r.examples:
            lines += [
                f"  {example.about}: {example.function} at {example.address}, {example.instructions} instr.",
                f"    table:     {example.table_says}",
                f"    recovered: {example.recovered}",
                *(f"      {line}" for line in example.disassembly),
            ]
    return "\n".join(lines) + "\n"


_BEGIN, _END = "<!-- begin generated -->", "<!-- end generated -->"


def _into(path: Path, generated: str) -> None:
    """Put the generated part between its marks; the prose around them stays."""
    page = path.read_text(encoding="utf-8")
    before, _, rest = page.partition(_BEGIN)
    _, mark, after = rest.partition(_END)
    if not mark:
        raise JitunwindError(f"{path} has no {_BEGIN} ... {_END}", "put the two marks where the figures go")
    path.write_text(f"{before}{_BEGIN}\n{generated}{_END}{after}", encoding="utf-8")


def _json(results: Sequence[Result]) -> str:
    return json.dumps([asdict(result) for result in results], indent=1) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", dest="form", action="store_const", const=_json, default=text)
    form.add_argument("--markdown", dest="form", action="store_const", const=markdown)
    parser.add_argument("--into", type=Path, metavar="PAGE", help="write markdown between the marks of PAGE")
    parser.add_argument("--examples", type=int, default=_EXAMPLES, help="examples shown of each class")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--floor", type=float, default=0.0, help="the least share of agreement, 0 to 1")
    options = parser.parse_args(arguments)
    show: Callable[[Sequence[Result]], str] = options.form
    try:
        results = [witness(path, options.jobs, options.examples) for path in options.files]
        if options.into is not None:
            _into(options.into, markdown(results))
    except (JitunwindError, OSError) as problem:
        hint = getattr(problem, "hint", "")
        print(f"witness: {problem}" + (f" ({hint})" if hint else ""), file=sys.stderr)
        return 2
    sys.stdout.write(show(results))
    return int(any(result.share < options.floor for result in results))


if __name__ == "__main__":
    sys.exit(main())
