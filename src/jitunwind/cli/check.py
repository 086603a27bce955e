"""`jitunwind check`: every unwind table of ELF files against what the code does."""

import json
import os
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import click

from jitunwind.check.files import Place, Reports, Result, judge_file, result_of
from jitunwind.check.functions import Program, Report
from jitunwind.check.report import Checked, Unusable, as_data, as_junit, as_markdown, per_second
from jitunwind.check.reserved import UNPROVEN, Stencils, violations
from jitunwind.check.workers import TookTooLong, time_limit
from jitunwind.cli.files import Output, check_stdout_is_free
from jitunwind.cli.output import (
    ERASE_LINE,
    FOUND,
    INTERRUPTED,
    UNUSABLE,
    folded,
    is_coloured,
    print_error,
    print_warning,
)
from jitunwind.cli.verb import Verb, color_option, junit_option, markdown_option
from jitunwind.errors import JitunwindError
from jitunwind.wording import counted, printable

_EXAMPLES = 3
_LOADING_SECONDS, _BYTES_PER_SECOND = 30.0, 100_000
"""The time to read a file, and that for so many of its bytes on top."""
_USUAL_SHARE = 0.9
"""Of the code that a compiler describes: the rest is padding between functions."""
_BAR = 20
_REDRAW_SECONDS = 0.1


@click.command(cls=Verb)
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--frame-pointer-reserved",
    "is_reserved",
    is_flag=True,
    help="For stencils: also that no function saves, writes or reads rbp (x29), and that each leaves the stack as it "
    "found it. Functions without an unwind table are taken from the symbols.",
)
@click.option("--jobs", type=click.IntRange(min=1), metavar="N", help="Processes.  [default: the CPUs]")
@click.option(
    "--examples",
    type=click.IntRange(min=0),
    default=_EXAMPLES,
    show_default=True,
    metavar="N",
    help="Examples shown of each class of disagreement, per file.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@markdown_option
@junit_option
@color_option
@click.pass_context
def check(
    context: click.Context,
    files: tuple[Path, ...],
    is_reserved: bool,
    jobs: int | None,
    examples: int,
    as_json: bool,
    markdown: Output | None,
    junit: Output | None,
    color: str,
) -> None:
    """Check the unwind tables of ELF files against their code.

    FILE is an x86_64 or AArch64 executable, shared library or relocatable object. At every instruction, what
    .eh_frame says of the caller (CFA, return address, each callee-saved register) is compared with what follows
    from the machine code itself. Nothing is executed.

    Exit status: 0 nothing is wrong; 1 a table is wrong; 2 a file cannot be used (the others are checked all the
    same); 130 interrupted, with the report so far.
    """
    is_taken = check_stdout_is_free(as_json, markdown, junit)
    checked = Checked()
    began = time.monotonic()
    bar = _Bar(len(files))
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for number, path in enumerate(files, 1):
            try:
                program = _read(path, Stencils if is_reserved else Program)
                bar.start(number, program)
                _check(program, jobs or os.cpu_count() or 1, examples, bar, checked)
            except JitunwindError as error:
                checked.unusable.append(Unusable(str(path), str(error), error.hint))
            except OSError as error:
                checked.unusable.append(Unusable(str(path), f"{path} cannot be read: {error.strerror}", ""))
    except KeyboardInterrupt:
        checked.is_interrupted = True
    finally:
        bar.erase()
    checked.seconds = time.monotonic() - began
    done = {*(result.file for result in checked.results), *(each.file for each in checked.unusable)}
    checked.not_begun = [str(path) for path in files if str(path) not in done]
    if markdown is not None:
        markdown.write(as_markdown(checked.results))
    if junit is not None:
        junit.write(as_junit(checked))
    if as_json:
        click.echo(json.dumps(as_data(checked), indent=2))
    elif checked.results and not is_taken:
        click.echo(folded(_text(checked), sys.stdout), color=is_coloured(color, sys.stdout))
    for unusable in checked.unusable:
        print_error(unusable.message, unusable.hint)
    if checked.is_interrupted:
        begun = f"not begun: {', '.join(map(printable, checked.not_begun))}"
        print_warning(f"interrupted{'; ' + begun if checked.not_begun else ''}")
    if checked.is_interrupted:
        context.exit(INTERRUPTED)
    if checked.unusable:
        context.exit(UNUSABLE)
    if not checked.is_clean:
        context.exit(FOUND)


def _read(path: Path, kind: type[Program]) -> Program:
    seconds = _LOADING_SECONDS + path.stat().st_size / _BYTES_PER_SECOND
    try:
        with time_limit(seconds):
            program = kind(path)
            for index in range(len(program.fdes)):
                program.is_entry(index)  # remembered; a strange table may take long
            return program
    except TookTooLong:
        raise JitunwindError(
            f"{path} could not be read within {seconds:.0f} s",
            "compare with readelf -S; the file may be damaged",
        ) from None


def _check(program: Program, jobs: int, examples: int, bar: "_Bar", checked: Checked) -> None:
    """Add what is found in one file to `checked`; in case of an interruption, what was found until then."""
    reports: Reports = {}
    began = time.monotonic()
    try:
        judge_file(program, jobs, reports, bar.note)
    finally:
        result = result_of(program, reports, time.monotonic() - began, examples)
        checked.results.append(result)
        if isinstance(program, Stencils):
            found = list(violations(program, reports))
            checked.violations[result.file] = [place for place in found if place.about != UNPROVEN]
            checked.unproven[result.file] = [place for place in found if place.about == UNPROVEN]


class _Bar:
    """How far it is, on a terminal only."""

    def __init__(self, files: int) -> None:
        self._files = files
        self._is_shown = sys.stderr.isatty() and is_coloured("auto", sys.stderr)
        self._file, self._total = "", 1
        self._wrong: dict[int, int] = {}
        self._before = 0
        self._judged = 0
        self._began = time.monotonic()
        self._drawn = 0.0

    def start(self, number: int, program: Program) -> None:
        self._before += sum(self._wrong.values())
        self._wrong.clear()
        self._total = len(program.fdes)
        self._file = f"file {number} of {self._files}, {program.elf.path.name}"

    def note(self, report: Report) -> None:
        self._judged += 1
        self._wrong[report.index] = report.comparison.wrong.total()
        if self._is_shown and time.monotonic() - self._drawn > _REDRAW_SECONDS:
            self._drawn = time.monotonic()
            self._draw()

    def _draw(self) -> None:
        done = len(self._wrong)
        filled = _BAR * done // self._total
        wrong = self._before + sum(self._wrong.values())
        rate = self._judged / max(time.monotonic() - self._began, 0.001)
        text = (
            f"[{'#' * filled}{'.' * (_BAR - filled)}] {done:,}/{self._total:,} functions, {wrong:,} wrong, "
            f"{rate:,.0f}/s, {self._file}"
        )
        width = shutil.get_terminal_size().columns
        click.echo(f"{ERASE_LINE}{text[: width - 1]}", err=True, nl=False, color=True)

    def erase(self) -> None:
        if self._is_shown:
            click.echo(ERASE_LINE, err=True, nl=False, color=True)


def _text(checked: Checked) -> str:
    lines: list[str] = []
    for result in checked.results:
        lines += _lines_of(result, checked.violations.get(result.file), checked.unproven.get(result.file))
    instructions = sum(result.instructions for result in checked.results)
    fdes = counted(checked.fdes, "FDE")
    if checked.judged_functions < checked.fdes:
        fdes = f"{checked.judged_functions:,} of {fdes}"
    lines.append(
        f"{counted(len(checked.results), 'file')}, {fdes}, {counted(instructions, 'instruction')} "
        f"in {checked.seconds:.1f} s, {per_second(checked.judged_functions, checked.seconds):,} FDEs/s"
    )
    if len(checked.results) > 1:
        lines += _classes(checked.wrong, checked.unknown)
    return "\n".join(lines)


def _lines_of(result: Result, broken: list[Place] | None, unproven: list[Place] | None) -> list[str]:
    is_clean = not result.wrong and not broken
    colour = ("green" if result.is_complete else "yellow") if is_clean else "red"
    fdes = counted(result.fdes, "FDE")
    if not result.is_complete:
        fdes = f"interrupted after {result.judged_functions:,} of {fdes}"
    lines = [
        click.style(
            f"{printable(result.file)}: {fdes}, {counted(result.instructions, 'instruction')}: {result.exact:,} "
            f"exact, {sum(result.wrong.values()):,} wrong in {counted(result.wrong_functions, 'function')}, "
            f"{sum(result.unknown.values()):,} unknown, {result.padding:,} padding",
            fg=colour,
        ),
        *([_coverage(result)] if broken is None else []),
    ]
    lines += _classes(result.wrong, result.unknown)
    for example in result.examples:
        lines += [
            f"  {example.function} at {example.address}, {example.instructions} instr.: {example.about}",
            f"    table:     {example.table_says}",
            f"    recovered: {example.recovered}",
            *(f"      {line}" for line in example.disassembly),
        ]
    if broken is not None:
        about = f"the frame pointer is not reserved, or the stack not left as it was: {len(broken):,} instructions"
        lines.append(click.style(f"  {about}", fg="red") if broken else "  the frame pointer is reserved")
        lines += [f"    {place.function}: {place.instruction}: {place.about}" for place in broken]
    lines += [f"    unknown {place.function}: {place.instruction}: {place.about}" for place in unproven or ()]
    return lines


def _coverage(result: Result) -> str:
    """How much of the code there is a table for, and for which functions there is none."""
    share = result.described_bytes / max(result.code_bytes, 1)
    said = f"  tables cover {share:.1%} of {counted(result.code_bytes, 'byte')} of code"
    if result.without_table:
        first = ", ".join(printable(name) for name in result.without_table[:_EXAMPLES])
        more = len(result.without_table) - _EXAMPLES
        said += f"; {counted(len(result.without_table), 'function has', 'functions have')} none: {first}"
        said += f" and {more:,} more" if more > 0 else ""
    is_whole = share >= _USUAL_SHARE and not result.without_table
    return (
        click.style(said, dim=True)
        if is_whole
        else click.style(f"{said}; that code was not checked", fg="yellow")
    )


def _classes(wrong: dict[str, int] | Counter[str], unknown: dict[str, int] | Counter[str]) -> list[str]:
    lines = [click.style(f"  wrong   {count:>9,}  {about}", fg="red") for about, count in wrong.items()]
    return [*lines, *(f"  unknown {count:>9,}  {reason}" for reason, count in unknown.items())]
