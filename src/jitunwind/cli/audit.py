"""`jitunwind audit`: every instruction of JIT code judged: stepped, emulated, or compared with what is recovered."""

import json
import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum, auto
from pathlib import Path
from types import FrameType
from typing import Any

import click

from jitunwind.audit.ptrace import Tracee, steps_natively
from jitunwind.audit.readers import READERS
from jitunwind.audit.remote import RemoteTracee, architecture_of
from jitunwind.audit.report import as_junit, as_markdown, coverage_of, is_clean, meaning_of
from jitunwind.audit.session import WAITING, Session
from jitunwind.audit.steppable import Steppable
from jitunwind.audit.subject import check_has_jit, dump_of, dump_of_remote
from jitunwind.audit.witness import STATIC, STEPPED
from jitunwind.cli.files import Output, check_stdout_is_free
from jitunwind.cli.output import ERASE_LINE, FOUND, INTERRUPTED, folded, is_coloured, print_warning
from jitunwind.cli.verb import (
    Seconds,
    Verb,
    color_option,
    junit_option,
    markdown_option,
    named,
    target_argument,
)
from jitunwind.errors import JitunwindError, NothingToAudit
from jitunwind.memory.live import check_process, is_number, is_stopped_by_signal
from jitunwind.memory.targets import Kind, target_of
from jitunwind.tables.sources import Published, Recovered
from jitunwind.wording import counted, printable

_MOST_REGIONS = 20
_REDRAW_SECONDS = 0.2
_FIRST_LINE_SECONDS, _LINE_SECONDS = 3.0, 30.0
"""Off a terminal, where lines stay: when the first line of progress comes, and the time between two."""


@click.command(cls=Verb, context_settings={"allow_interspersed_args": False})
@target_argument("PID | COMMAND... | CORE | DUMP", nargs=-1, required=False)
@click.option(
    "--table",
    "names",
    metavar="recovered|published|FILE",
    multiple=True,
    help="What to judge; may be given more than once. FILE: an ELF object whose .eh_frame has the process's "
    "addresses.  [default: recovered and published; with --static alone: published]",
)
@click.option(
    "--reader",
    "readers",
    type=click.Choice(READERS),
    metavar="READER",
    multiple=True,
    help="Judge the tables also as this program executes them, at every stepped instruction; may be given more than "
    f"once. READER: {', '.join(READERS)}. libgcc and the libunwinds read x86_64 code only.",
)
@click.option(
    "--steps", type=click.IntRange(min=1), metavar="N", help="Step; stop after N judged instructions."
)
@click.option(
    "--timeout",
    "seconds",
    type=Seconds(min=0, min_open=True),
    metavar="SECONDS",
    help="Stop after so many seconds; report and exit status are of what was judged by then.",
)
@click.option(
    "--single-step",
    is_flag=True,
    help="Have the kernel stop at each instruction. Without it, most instructions are run in a copy of the JIT "
    "code that records each state by itself: the same states, many times as fast.",
)
@click.option(
    "--emulate", is_flag=True, help="Run all paths in an emulator; of a PID, a core or a dump, too."
)
@click.option(
    "--static",
    is_flag=True,
    help="Compare with what is recovered from the machine code, where nothing has run; of a PID, a core or a "
    "dump, too.",
)
@click.option(
    "--remote",
    metavar="HOST:PORT|SOCKET",
    help="Look at the program of a stub of GDB's remote protocol that waits there: qemu-ARCH -g, gdbserver. "
    "COMMAND then is the file of its program, needed only where the stub does not tell.",
)
@click.option(
    "--exe", type=click.Path(path_type=Path), metavar="PYTHON", help="The program that left the core."
)
@click.option(
    "--max-unknown",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="How many unknown verdicts a table may have, and the exit status be 0.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON; the program's own output goes to stderr.")
@markdown_option
@junit_option
@color_option
@click.pass_context
def audit(
    context: click.Context,
    target: tuple[str, ...],
    names: tuple[str, ...],
    readers: tuple[str, ...],
    steps: int | None,
    seconds: float | None,
    single_step: bool,
    emulate: bool,
    static: bool,
    remote: str | None,
    exe: Path | None,
    max_unknown: int,
    as_json: bool,
    markdown: Output | None,
    junit: Output | None,
    color: str,
) -> None:
    """Judge unwind tables at every instruction of JIT code.

    What a table says of the caller (CFA, return address, each callee-saved register) is compared with what it
    really was. Three witnesses know that. COMMAND is started with its JIT on (PYTHON_JIT=1, unless that is set
    already), single-stepped, and ended once there are enough steps; one for another processor than this machine's
    runs in qemu-user, which has to be installed (apt-get install qemu-user). A process with that PID is stepped
    and then left as it was. --emulate and --static run nothing in the process, and reach the paths that did not
    run: they work on a PID (stepped first only with --steps), a core or a dump (jitunwind dump), or on the code
    that COMMAND had when it was stepped. An instruction is judged by the first of the three that came to it.

    Exit status: 0 nothing is wrong, and unknown no more than --max-unknown; 1 a table is wrong or unknown;
    2 the input cannot be used (no CPython with its JIT on, for one), or nothing was judged, --timeout or not;
    130 interrupted, with the report so far.
    """
    is_taken = check_stdout_is_free(as_json, markdown, junit)
    kind = _kind(target, remote)
    is_stepped = kind is _Kind.COMMAND or (steps is not None) or not (emulate or static)
    _check(kind, target, is_stepped, exe)
    if not names:
        names = (Published.name,) if static and not emulate and not is_stepped else _BOTH
    elif static and not emulate and not is_stepped and Recovered.name in names:
        raise click.UsageError(
            "--static compares with what is recovered, and cannot judge that: add --emulate"
        )
    if readers and not is_stepped:
        raise click.UsageError("--reader judges instructions that are stepped: add --steps")
    session = Session(names, emulate, static, _teller(), readers, seconds or math.inf)
    with _interruptible(session):
        if is_stepped:
            output = sys.stderr.fileno() if as_json else None
            session.step(_take(kind, target, remote, output), steps, single_step)
        elif remote is not None:
            session.dump = dump_of_remote(_connected(remote, target), session.warn)
        else:
            found = target_of(target[0], str(exe) if exe else None, files="a core or a dump")
            session.dump = dump_of(found, session.warn)
        if emulate or static:
            session.look_offline()
        data = session.report(" ".join(map(named, target)) or str(remote))
    if markdown is not None:
        markdown.write(as_markdown(data))
    if junit is not None:
        junit.write(as_junit(data, max_unknown))
    judged = sum(data["witnesses"].values())
    if as_json:
        click.echo(json.dumps(data, indent=2))
    elif judged and not is_taken:
        click.echo(folded(_text(data), sys.stdout), color=is_coloured(color, sys.stdout))
    elif session.is_interrupted and not judged and not is_taken:
        click.echo(f"{data['subject']}: {_nothing(session, data)}")
    if session.is_interrupted and not judged and (as_json or is_taken):
        print_warning(_nothing(session, data))
    for warning in session.warnings:
        print_warning(warning)
    if session.ended:
        print_warning(f"the program ended with {_ending(session.ended)}")
    if session.is_interrupted:
        context.exit(INTERRUPTED)
    if not judged:
        raise NothingToAudit(f"{data['subject']}: {_nothing(session, data)}", session.hint)
    if not is_clean(data, max_unknown):
        context.exit(FOUND)


_BOTH = (Recovered.name, Published.name)


class _Kind(Enum):
    """What there is to audit."""

    PROCESS = auto()
    COMMAND = auto()
    FILE = auto()
    REMOTE = auto()


def _kind(target: Sequence[str], remote: str | None) -> _Kind:
    if remote is not None:
        return _Kind.REMOTE
    if not target:
        raise click.UsageError("name a PID, a command, a core or a dump")
    path = Path(target[0])
    if is_number(target[0]):
        if len(target) == 1:
            return _Kind.PROCESS
        if not path.is_file():
            raise click.UsageError(f"{target[0]} is a process: options go before it, and nothing follows it")
    if not path.is_file():
        return _Kind.COMMAND
    is_core = target_of(target[0]).kind is Kind.CORE
    return _Kind.FILE if is_core or (len(target) == 1 and not os.access(path, os.X_OK)) else _Kind.COMMAND


def _check(kind: _Kind, target: Sequence[str], is_stepped: bool, exe: Path | None) -> None:
    """UsageError for what does not go together."""
    if kind is _Kind.FILE and len(target) > 1:
        raise click.UsageError(f"options go before {target[0]}")
    if kind is _Kind.FILE and is_stepped:
        raise click.UsageError(
            f"{target[0]} is no program, and cannot be stepped: give --emulate or --static"
        )
    if kind is _Kind.REMOTE and len(target) > 1:
        raise click.UsageError("with --remote the program runs already: name its file alone, or nothing")
    if kind is not _Kind.FILE and exe is not None:
        raise click.UsageError("--exe is for cores")


def _nothing(session: Session, data: dict[str, Any]) -> str:
    return f"no instruction of JIT code was judged in {data['seconds']:.1f} s: {session.problem}"


def _ending(status: int) -> str:
    return f"exit status {status}" if status >= 0 else f"the signal {signal.Signals(-status).name}"


def _take(kind: _Kind, target: Sequence[str], remote: str | None, output: int | None) -> Steppable:
    if remote is not None:
        return _connected(remote, target)
    if kind is _Kind.PROCESS:
        check_process(int(target[0]))
        check_has_jit(int(target[0]))
        if is_stopped_by_signal(int(target[0])):
            raise JitunwindError(
                f"process {target[0]} has been stopped by a signal, and stepping would have it run",
                f"kill -CONT {target[0]}, or judge without stepping: --emulate",
            )
        return Tracee.attach(int(target[0]))
    environment = {"PYTHON_JIT": "1", **os.environ}
    arch = architecture_of(target[0], environment)
    if arch is not None and arch is not steps_natively():
        return RemoteTracee.start(target, environment, output, arch)
    try:
        return Tracee.start(target, environment, output)
    except OSError as error:
        raise JitunwindError(
            f"{target[0]} cannot be run: {error.strerror}",
            "name a PID, a program, a core or a dump, behind all options",
        ) from None


def _connected(remote: str, target: Sequence[str]) -> RemoteTracee:
    if target and not Path(target[0]).is_file():
        raise JitunwindError(f"there is no {target[0]}", "name the program that the stub runs")
    return RemoteTracee.connect(remote, str(Path(target[0]).absolute()) if target else None)


def _teller() -> Callable[[str], None]:
    """Shows what it is called with, and not too often: on a terminal a line that changes, elsewhere a line now and
    then. What is waited for it says at once, in a line that stays."""
    is_shown = _is_shown()
    wait = _REDRAW_SECONDS if is_shown else _FIRST_LINE_SECONDS
    due, waited = time.monotonic() + wait, ""

    def tell(text: str) -> None:
        nonlocal due, waited
        now = time.monotonic()
        if text.startswith(WAITING):
            if text != waited:
                waited = text
                click.echo(f"{ERASE_LINE if is_shown else ''}{text}", err=True, color=is_shown)
        elif text and now >= due:
            due = now + (_REDRAW_SECONDS if is_shown else _LINE_SECONDS)
            if is_shown:
                width = shutil.get_terminal_size().columns
                click.echo(f"{ERASE_LINE}{text[: width - 1]}", err=True, nl=False, color=True)
            else:
                click.echo(text, err=True)

    return tell


def _is_shown() -> bool:
    return sys.stderr.isatty() and is_coloured("auto", sys.stderr)


@contextmanager
def _interruptible(session: Session) -> Iterator[None]:
    """A signal interrupts the session, which can report all the same. One that is ignored stays ignored: nohup(1),
    or a shell's background job."""

    def handle(number: int, frame: FrameType | None) -> None:
        session.interrupt()

    heeded = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if _is_shown():
            click.echo(ERASE_LINE, err=True, nl=False, color=True)


def _text(data: dict[str, Any]) -> str:
    counts, judged = data["counts"], sum(data["witnesses"].values())
    said = f"{data['subject']}: "
    if stepped := data["witnesses"][STEPPED]:
        said += (
            f"{counted(stepped, 'instruction')} stepped in {counted(counts['activations'], 'activation')} of "
        )
    rate = judged / max(data["seconds"], 0.001)
    said += f"{counted(len(data['regions']), 'region')}, {rate:,.0f} instructions judged a second"
    lines = [click.style(said, dim=True), click.style(coverage_of(data), dim=True), ""]
    width = max(len(name) for name in data["tables"])
    head = f"{'table':<{width}} {'instructions':>13} {'exact':>11} {'wrong':>11} {'unknown':>11}   wrong by register"
    lines.append(click.style(head, bold=True))
    for name, table in data["tables"].items():
        bad = {register: tally["wrong"] for register, tally in table["registers"].items() if tally["wrong"]}
        by_register = ", ".join(f"{register} {count:,}" for register, count in bad.items())
        clean = not table["wrong"] and not table["unknown"]
        numbers = "".join(f" {table[key]:>11,}" for key in ("exact", "wrong", "unknown"))
        line = f"{name:<{width}} {table['instructions']:>13,}{numbers}   {by_register}"
        lines.append(click.style(line.rstrip(), fg="green" if clean else "red"))
    lines.append("")
    for name, table in data["tables"].items():
        clean = not table["wrong"] and not table["unknown"]
        lines.append(f"{name}: {meaning_of(table)}")
        lines += [
            f"  unknown, {counted(count, 'time')}: {reason}" for reason, count in table["reasons"].items()
        ]
        if name.endswith("/llvm-libunwind") and not clean:
            lines.append(
                "  llvm-libunwind takes the row before at each row's first instruction, with every table"
            )
        if data["witnesses"][STATIC] and name == Recovered.name:
            lines.append("  static compares with these rows, and has not judged them")
    if data["not_judged"]:
        lines.append(click.style(f"not judged: {', '.join(data['not_judged'])}", dim=True))
    if begun := counts.get("begun_before"):
        what = f"{counted(begun, 'activation')} that had begun before the audit, until the next entry"
        lines.append(click.style(f"not judged: {what}", dim=True))
    ranked = sorted(data["regions"], key=lambda region: -_instructions(region))
    if ranked:
        lines += ["", click.style("regions, by instructions judged", bold=True)]
    for region in ranked[:_MOST_REGIONS]:
        judged_here = f"{region['start']:>18} {_instructions(region):>9,}"
        lines.append(f"{judged_here}  {printable(region['name'])}: {_amiss(region['tables'])}")
    if len(ranked) > _MOST_REGIONS:
        lines.append(f"… and {counted(len(ranked) - _MOST_REGIONS, 'more region')}")
    first: dict[str, dict[str, Any]] = {}
    for example in data["examples"]:
        first.setdefault(example["table"], example)
    for example in first.values():
        where = f"{example['table']}, first wrong at {example['pc']} in {printable(example['region'])}"
        lines += ["", f"{where}: {example['instruction']}"]
        lines += [
            f"  {register:<4} table {values['table']}, truth {values['truth']}"
            for register, values in example["wrong"].items()
        ]
    return "\n".join(lines)


def _amiss(tables: dict[str, dict[str, int]]) -> str:
    """What is not exact in a region."""
    parts = [
        f"{name} {verdict} at {tally[verdict]:,}"
        for name, tally in tables.items()
        for verdict in ("wrong", "unknown")
        if tally[verdict]
    ]
    return ", ".join(parts) or "nothing wrong"


def _instructions(region: dict[str, Any]) -> int:
    return max(int(table["instructions"]) for table in region["tables"].values())
