"""`jitunwind audit`: every instruction of a process's JIT code, stepped and judged."""

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import click

from jitunwind.arch.x86_64.effects import decode
from jitunwind.arch.x86_64.registers import X86_64
from jitunwind.audit.ptrace import Tracee
from jitunwind.audit.recorder import Recorder
from jitunwind.audit.report import as_data, as_junit, as_markdown, is_clean
from jitunwind.audit.stepper import Counts, Stepper
from jitunwind.audit.tables import FromFile, Published, Recovered, Tables
from jitunwind.audit.verdicts import Verdicts
from jitunwind.cli.output import ERASE_LINE, FOUND, INTERRUPTED, is_coloured, print_warning
from jitunwind.errors import JitunwindError, NothingToAudit
from jitunwind.memory.live import check_process, is_number

_MOST_REGIONS = 20


@click.command(context_settings={"allow_interspersed_args": False})
@click.argument("target", metavar="PID | COMMAND...", nargs=-1, required=True)
@click.option(
    "--table",
    "names",
    metavar="recovered|published|FILE",
    multiple=True,
    help="What to judge; may be given more than once. FILE: an ELF object whose .eh_frame has the process's "
    "addresses.  [default: recovered and published]",
)
@click.option("--steps", type=click.IntRange(min=1), metavar="N", help="Stop after N judged instructions.")
@click.option(
    "--single-step",
    is_flag=True,
    help="Have the kernel stop at each instruction. Without it, most instructions are run in a copy of the JIT "
    "code that records each state by itself: the same states, many times as fast.",
)
@click.option("--max-unknown", type=click.IntRange(min=0), default=0, show_default=True, metavar="N")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; the program's own output goes to stderr.")
@click.option("--markdown", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE")
@click.option("--junit", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE")
@click.option("--color", type=click.Choice(["auto", "always", "never"]), default="auto", show_default=True)
@click.pass_context
def audit(
    context: click.Context,
    target: tuple[str, ...],
    names: tuple[str, ...],
    steps: int | None,
    single_step: bool,
    max_unknown: int,
    as_json: bool,
    markdown: Path | None,
    junit: Path | None,
    color: str,
) -> None:
    """Single-step JIT code and judge unwind tables at every instruction.

    COMMAND is started with its JIT on (PYTHON_JIT=1, unless that is set already), and ended once there are
    enough steps; a process with that PID is stepped and then left as it was. What a table says of the caller
    (CFA, return address, each callee-saved register) is compared with what was recorded when JIT code was
    entered.

    Exit status: 0 nothing is wrong, and unknown no more than --max-unknown; 1 a table is wrong or unknown;
    2 the input cannot be used, or there was nothing to judge; 130 interrupted, with the report so far.
    """
    tracee = _take(target, sys.stderr.fileno() if as_json else None)
    try:
        tables = _tables(names or ("recovered", "published"), tracee)
        verdicts = Verdicts(X86_64, tracee.memory, tables)
        recorder = None if single_step else Recorder(tracee)
        stepper = Stepper(tracee, X86_64, verdicts.judge, steps, recorder)
        begin = time.monotonic()
        _run(stepper, verdicts, begin)
        seconds = time.monotonic() - begin
        ended = tracee.ending
    finally:
        tracee.let_go()
    data = as_data(" ".join(target), stepper.counts, seconds, verdicts.findings)
    if markdown is not None:
        markdown.write_text(as_markdown(data))
    if junit is not None:
        junit.write_text(as_junit(data, max_unknown))
    if as_json:
        click.echo(json.dumps(data, indent=2))
    elif stepper.counts.instructions:
        click.echo(_text(data, stepper.counts), color=is_coloured(color, sys.stdout))
    for table in tables:
        for warning in getattr(table, "warnings", ()):
            print_warning(warning)
    if ended and os.waitstatus_to_exitcode(ended):
        print_warning(f"the program ended with {_ending(os.waitstatus_to_exitcode(ended))}")
    if stepper.is_interrupted:
        context.exit(INTERRUPTED)
    if not stepper.counts.instructions:
        raise NothingToAudit(f"no instruction of JIT code was stepped: {stepper.problem}")
    if not is_clean(data, max_unknown):
        context.exit(FOUND)


def _ending(status: int) -> str:
    return f"exit status {status}" if status >= 0 else f"the signal {signal.Signals(-status).name}"


def _take(target: Sequence[str], output: int | None) -> Tracee:
    if len(target) == 1 and is_number(target[0]):
        check_process(int(target[0]))
        return Tracee.attach(int(target[0]))
    try:
        return Tracee.start(target, {"PYTHON_JIT": "1", **os.environ}, output)
    except OSError as error:
        raise JitunwindError(f"{target[0]} cannot be run: {error.strerror}") from None


def _tables(names: Sequence[str], tracee: Tracee) -> list[Tables]:
    found: dict[str, Tables] = {}
    for name in names:
        if name == Recovered.name:
            found[name] = Recovered(X86_64, decode)
        elif name == Published.name:
            found[name] = Published(X86_64, tracee.memory)
        elif Path(name).is_file():
            found[name] = FromFile(X86_64, Path(name))
        else:
            raise click.UsageError(f"--table {name}: neither recovered nor published, nor a file")
    return list(found.values())


def _run(stepper: Stepper, verdicts: Verdicts, begin: float) -> None:
    """Until the steps are done, the program has ended, or somebody interrupts."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        stepper.is_interrupted = True

    def tell() -> None:
        counts, seconds = stepper.counts, time.monotonic() - begin
        wrong = ", ".join(f"{name} {found.total.wrong:,} wrong" for name, found in verdicts.findings.items())
        regions = len(next(iter(verdicts.findings.values())).regions)
        text = f"{counts.instructions:,} instructions, {regions} regions, {wrong}; "
        click.echo(
            f"{ERASE_LINE}{text}{counts.instructions / seconds:,.0f}/s", err=True, nl=False, color=True
        )

    shown = sys.stderr.isatty() and is_coloured("auto", sys.stderr)
    if shown:
        stepper.progress = tell
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        stepper.run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if shown:
            click.echo(ERASE_LINE, err=True, nl=False, color=True)


def _text(data: dict[str, Any], counts: Counts) -> str:
    rate = counts.instructions / max(data["seconds"], 0.001)
    lines = [
        click.style(
            f"{data['subject']}: {counts.instructions:,} instructions stepped in {counts.activations:,} "
            f"activations of {len(data['regions'])} regions, {rate:,.0f} a second",
            dim=True,
        ),
        "",
    ]
    width = max(len(name) for name in data["tables"])
    head = f"{'table':<{width}} {'instructions':>13} {'exact':>11} {'wrong':>11} {'unknown':>11}   wrong by register"
    lines.append(click.style(head, bold=True))
    for name, table in data["tables"].items():
        bad = {register: tally["wrong"] for register, tally in table["registers"].items() if tally["wrong"]}
        said = ", ".join(f"{register} {count:,}" for register, count in bad.items())
        clean = not table["wrong"] and not table["unknown"]
        numbers = "".join(f" {table[key]:>11,}" for key in ("exact", "wrong", "unknown"))
        line = f"{name:<{width}} {table['instructions']:>13,}{numbers}   {said}"
        lines.append(click.style(line.rstrip(), fg="green" if clean else "red"))
        lines += [f"  unknown, {count:,} times: {reason}" for reason, count in table["reasons"].items()]
    lines += ["", click.style("instructions wrong, by region", bold=True)]
    ranked = sorted(data["regions"], key=lambda region: -_instructions(region))
    for region in ranked[:_MOST_REGIONS]:
        wrong = ", ".join(f"{name} {tally['wrong']:,}" for name, tally in region["tables"].items())
        lines.append(f"{region['start']:>18} {_instructions(region):>9,}  {wrong}  {region['name']}")
    if len(ranked) > _MOST_REGIONS:
        lines.append(f"… and {len(ranked) - _MOST_REGIONS} more regions")
    for example in data["examples"][:2]:
        lines += [
            "",
            f"{example['table']} at {example['pc']} in {example['region']}: {example['instruction']}",
        ]
        lines += [
            f"  {register:<4} table {values['table']}, truth {values['truth']}"
            for register, values in example["wrong"].items()
        ]
    return "\n".join(lines)


def _instructions(region: dict[str, Any]) -> int:
    return int(next(iter(region["tables"].values()))["instructions"])
