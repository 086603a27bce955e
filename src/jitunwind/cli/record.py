"""`jitunwind record`: where a process spends its time, JIT code included."""

import contextlib
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import click

from jitunwind.cli.files import Output, OutputFile, written_elsewhere
from jitunwind.cli.output import ERASE_LINE, folded, is_coloured, print_note, progress
from jitunwind.cli.terminal import columns_of_stdout, plain
from jitunwind.cli.verb import Number, Seconds, Verb, color_option, debug_dir_option, target_argument
from jitunwind.errors import CannotStart, CannotWrite, JitunwindError, NoSuchProcess
from jitunwind.memory.live import is_number
from jitunwind.profile.forms import FORMS, Form, form_of
from jitunwind.profile.recording import Counts, Recording
from jitunwind.profile.sampler import Sampler, Wanted
from jitunwind.profile.shares import Shares
from jitunwind.profile.table import lines, live_lines, summary
from jitunwind.profile.trust import doubts
from jitunwind.startup.launch import environment
from jitunwind.wording import counted

_OURSELVES = "jitunwind"
"""As `Origin.by` has it."""
_REDRAW_SECONDS = 0.2
_LIVE_SECONDS = 1.0
_MOST_FUNCTIONS = 20
_MOST_REASONS = 5
_FASTEST = 10_000.0
_CLEAR = "\x1b[H\x1b[J"
_ALTERNATE, _BACK = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
"""A terminal's second screen without a cursor, and back to the first (xterm's control sequences)."""


class _Rate(Number):
    """A number of samples a second."""

    name = "number of samples a second"

    def __init__(self) -> None:
        super().__init__(min=0.1, max=_FASTEST)


@click.command(cls=Verb, context_settings={"allow_interspersed_args": False})
@target_argument("PID | [--] COMMAND...", nargs=-1, required=False)
@click.option(
    "-r",
    "--rate",
    type=_Rate(),
    default=100,
    show_default=True,
    metavar="HZ",
    help="Samples a second of each thread that runs.",
)
@click.option(
    "-d",
    "--duration",
    type=Seconds(min=0, min_open=True),
    metavar="SECONDS",
    help="Record for so long.  [default: until the process ends, or Ctrl-C]",
)
@click.option(
    "-o",
    "--output",
    type=OutputFile(),
    metavar="FILE",
    help="Where to write the recording; -: stdout. The end of its name says the form: "
    + ", ".join(form.suffix for form in FORMS.values())
    + ".  [default: none, a table is printed]",
)
@click.option(
    "-f",
    "--format",
    "form_name",
    metavar="FORM",
    type=click.Choice(list(FORMS)),
    help=f"The form, whatever FILE's name is: {', '.join(FORMS)}.",
)
@click.option(
    "--lines",
    "with_lines",
    is_flag=True,
    help="Tell lines of one function apart, in every form and in the table.",
)
@click.option("-i", "--idle", is_flag=True, help="Threads that wait, too, marked as waiting.")
@click.option("-g", "--gil", is_flag=True, help="Only threads that hold the GIL.")
@click.option(
    "--perf",
    "by_perf",
    is_flag=True,
    help="Have perf record COMMAND and its children, with the kernel's frames.",
)
@click.option("--live", is_flag=True, help="Show a table of the last second that is redrawn, as top does.")
@click.option(
    "--diff",
    nargs=2,
    type=click.Path(exists=True, dir_okay=False),
    metavar="BEFORE AFTER",
    help="Record nothing: a page with the differences of two recordings (.collapsed).",
)
@color_option
@debug_dir_option
@click.option("--c-lines", is_flag=True, help="Lines of C functions, too, and the functions inlined there.")
@click.pass_context
def record(
    context: click.Context,
    target: tuple[str, ...],
    rate: float,
    duration: float | None,
    output: Output | None,
    form_name: str | None,
    with_lines: bool,
    idle: bool,
    gil: bool,
    by_perf: bool,
    live: bool,
    diff: tuple[str, str] | None,
    color: str,
    debug_dirs: tuple[str, ...],
    c_lines: bool,
) -> None:
    """Record where a process spends its time, JIT code included.

    Native, JIT and Python frames are in one stack. A thread that runs stands still for some tenth of a millisecond at
    each sample, and nothing in the process is changed. COMMAND is started with its JIT on (PYTHON_JIT=1, unless that
    is set already). Ctrl-C ends the recording and writes what there is.

    \b
    jitunwind record -o profile.html PID
    jitunwind record -d 10 -o profile.speedscope.json PID
    jitunwind record -o profile.html -- python3.14 script.py
    jitunwind record --live PID
    jitunwind record --perf -o profile.html -- python3.14 script.py
    jitunwind record --diff before.collapsed after.collapsed -o page.html

    Exit status: 0 recorded, but of a COMMAND its own status, or 128 + N if signal N has ended it; 2 the input cannot be
    used, or the output not be written.
    """
    form = _form(output, form_name)
    if diff:
        if target:
            raise click.UsageError("--diff records nothing: leave PID or COMMAND away")
        _write_difference(diff, output, form)
        return
    if not target:
        raise click.UsageError("name a PID, or a command behind --")
    if idle and gil:
        raise click.UsageError("--idle and --gil contradict each other: who holds the GIL runs")
    if len(target) > 1 and all(map(is_number, target)):
        raise click.UsageError(
            f"one process is recorded, and {' '.join(target)} are {len(target)}: name one PID"
        )
    if by_perf:
        _check_for_perf(target, duration, idle or gil or live)
    if live and not sys.stdout.isatty():
        if output is None:
            raise click.UsageError("--live needs a terminal; without it, the table is printed at the end")
        print_note("--live shows nothing, because stdout is no terminal")
        live = False
    if c_lines:
        from jitunwind.stacks.lines import check_available

        check_available()
    wanted = Wanted(rate, duration, idle, gil, debug_dirs, c_lines)
    paint: Callable[..., str] = click.style if is_coloured(color, sys.stdout) else plain
    with _Interruptions() as interruptions:
        if by_perf:
            from jitunwind.profile.perf import record as record_by_perf

            recording, status = record_by_perf(target, environment(os.environ, "jitdump"), rate)
        else:
            shown = _Live(paint, with_lines) if live else None
            recording, status = _recorded(target, wanted, interruptions, shown)
    for note in _notes(recording, wanted):
        print_note(note)
    if output is not None and form is not None:
        content = form.write(recording, with_lines)
        try:
            output.write(content)
        except CannotWrite:
            _rescue(content, form, recording, with_lines, paint)
            raise
        print_note(f"{output}: {summary(recording.origin, recording.counts, len(recording))}")
    else:
        _print_table(recording, with_lines, paint)
    context.exit(status)


def _rescue(
    content: str | bytes, form: Form, recording: Recording, with_lines: bool, paint: Callable[..., str]
) -> None:
    """Where FILE has no room for the recording, it goes to the folder for temporary files; else the table is
    printed."""
    try:
        print_note(f"the recording is in {written_elsewhere(content, form.suffix)}")
    except CannotWrite as error:
        print_note(f"{error}: only the table is left of the recording")
        _print_table(recording, with_lines, paint)


def _check_for_perf(target: Sequence[str], duration: float | None, has_others: bool) -> None:
    if len(target) == 1 and is_number(target[0]):
        raise click.UsageError("--perf records a command: jitunwind record --perf [OPTIONS] -- COMMAND")
    if duration is not None or has_others:
        raise click.UsageError("--perf records all of a command: leave -d, -i, -g and --live away")


def _form(output: Output | None, name: str | None) -> Form | None:
    """The form to write. click.UsageError, where nobody says it, or there is nothing to write it to."""
    if name is not None and output is None:
        raise click.UsageError("--format needs -o FILE; -o - writes to stdout")
    if output is None:
        return None
    form = FORMS[name] if name is not None else form_of(str(output))
    if form is None:
        endings = ", ".join(form.suffix for form in FORMS.values())
        raise click.UsageError(
            f"the name of {output} does not say its form: it ends in one of {endings}, "
            f"or --format says it ({', '.join(FORMS)})"
        )
    return form


# --- what is recorded


class _Interruptions:
    """SIGINT and SIGTERM end the recording, not this process. One that is ignored stays ignored: nohup(1), or a
    shell's background job."""

    def __init__(self) -> None:
        self.count = 0
        self.command: subprocess.Popen[bytes] | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "_Interruptions":
        heeded = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._heed) for number in heeded}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _heed(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if number == signal.SIGTERM and self.command is not None:  # a terminal sends SIGINT to both
            self.command.send_signal(number)


def _recorded(
    target: Sequence[str], wanted: Wanted, interruptions: _Interruptions, live: "_Live | None"
) -> tuple[Recording, int]:
    """The recording, and the exit status of the command; of a process, 0."""
    if len(target) == 1 and is_number(target[0]):
        sampler = _sampler(int(target[0]), wanted)
        _run(sampler, wanted, interruptions, live)
        return sampler.recording(), 0
    command = interruptions.command = _started(target)
    try:
        sampler = _sampler(command.pid, wanted)
    except NoSuchProcess:
        command.wait()
        raise _too_short(target[0], command) from None
    _run(sampler, wanted, interruptions, live)
    if sampler.ending is not None:
        command.returncode = os.waitstatus_to_exitcode(sampler.ending)
    if not (sampler.counts.moments or interruptions.count) and command.poll() is not None:
        raise _too_short(target[0], command)
    _wait_for(command, interruptions)
    status = command.returncode or 0  # it runs on, where there is none
    return sampler.recording(), status if status >= 0 else 128 - status


def _too_short(name: str, command: "subprocess.Popen[bytes]") -> JitunwindError:
    return JitunwindError(
        f"{name} has {_ending(command)}, before it could be looked at",
        "record a program that runs for longer",
    )


def _sampler(pid: int, wanted: Wanted) -> Sampler:
    with progress(f"reading process {pid}"):
        return Sampler(pid, wanted)


def _started(target: Sequence[str]) -> "subprocess.Popen[bytes]":
    try:
        return subprocess.Popen(list(target), env={"PYTHON_JIT": "1", **os.environ})
    except OSError as error:
        raise CannotStart(
            f"{target[0]} cannot be run: {error.strerror}", "name a PID, or a program, behind all options"
        ) from None


def _wait_for(command: "subprocess.Popen[bytes]", interruptions: _Interruptions) -> None:
    """The command is waited for, unless there is one interruption more."""
    before = interruptions.count
    if command.poll() is None:
        print_note("the recording is over; waiting for the command to end (Ctrl-C: do not wait)")
    while command.poll() is None and interruptions.count == before:
        with contextlib.suppress(subprocess.TimeoutExpired):
            command.wait(0.1)
    if command.returncode is None:
        print_note(f"the command runs on as process {command.pid}")
    else:
        print_note(f"the command has {_ending(command)}")


def _ending(command: "subprocess.Popen[bytes]") -> str:
    status = command.returncode
    if status >= 0:
        return f"ended with exit status {status}"
    try:
        return f"been ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"been ended by signal {-status}"


def _run(sampler: Sampler, wanted: Wanted, interruptions: _Interruptions, live: "_Live | None") -> None:
    """An interruption that came before the recording began ends it, too."""
    with live if live is not None else _progress(_begun(sampler, wanted)) as show:

        def is_over() -> bool:
            show(sampler)
            return interruptions.count > 0

        sampler.run(is_over)


def _begun(sampler: Sampler, wanted: Wanted) -> str:
    lasts = "" if wanted.seconds is None else f" for {wanted.seconds:g} s"
    return f"recording process {sampler.pid}{lasts}; Ctrl-C ends it"


@contextlib.contextmanager
def _progress(begun: str) -> Iterator[Callable[[Sampler], None]]:
    """On a terminal, a line that says how far the recording is; elsewhere that it has begun."""
    is_shown = sys.stderr.isatty() and is_coloured("auto", sys.stderr)
    due = 0.0

    def show(sampler: Sampler) -> None:
        nonlocal due
        now = time.monotonic()
        if now < due:
            return
        if not is_shown:
            print_note(begun)
            due = math.inf
            return
        due = now + _REDRAW_SECONDS
        width = shutil.get_terminal_size().columns
        text = f"recording: {summary(sampler.origin, sampler.counts, len(sampler))} (Ctrl-C ends it)"
        click.echo(f"{ERASE_LINE}{text[: width - 1]}", err=True, nl=False, color=True)

    try:
        yield show
    finally:
        if is_shown:
            click.echo(ERASE_LINE, err=True, nl=False, color=True)


class _Live:
    """A table of what ran since it was drawn the last time, on the terminal's second screen."""

    def __init__(self, paint: Callable[..., str], with_lines: bool) -> None:
        self._paint, self._with_lines, self._due = paint, with_lines, 0.0
        self._whole = Shares(with_lines)
        self._added = 0

    def __enter__(self) -> Callable[[Sampler], None]:
        click.echo(_ALTERNATE, nl=False, color=True)
        return self._show

    def __exit__(self, *exception: object) -> None:
        click.echo(_BACK, nl=False, color=True)

    def _show(self, sampler: Sampler) -> None:
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + _LIVE_SECONDS
        new = sampler.since(self._added)
        self._added += len(new)
        now_shares = Shares(self._with_lines)
        for shares in (now_shares, self._whole):
            shares.add(new)
        width, height = shutil.get_terminal_size()
        shown = live_lines(
            now_shares, self._whole, sampler.origin, sampler.counts, self._paint, width, height
        )
        click.echo(_CLEAR + "\n".join(shown), nl=False, color=True)
        sys.stdout.flush()


# --- what is said of it


def _notes(recording: Recording, wanted: Wanted) -> list[str]:
    """What is good to know of the recording, and no reason to fail."""
    origin, counts = recording.origin, recording.counts
    notes = list(origin.notes)
    if origin.by != _OURSELVES:
        pass
    elif origin.python is None:
        notes.append("no CPython that is known was found there: the frames are native ones only")
    elif origin.jit is False:
        notes.append("the JIT of this Python is off (PYTHON_JIT=1 turns it on), or it was built without one")
    if counts.halted:
        when = (
            ""
            if counts.halted == counts.moments - counts.missed
            else f"at {counted(counts.halted, 'moment')} "
        )
        notes.append(
            f"{when}a signal or a debugger had stopped the process "
            f"(kill -CONT {origin.pid} lets it go on after SIGSTOP)"
        )
    if not len(recording):
        notes.append(f"there is no sample: {_why_none(counts, wanted)}")
    notes += doubts(origin, counts, len(recording))
    for reason, count in counts.reasons.most_common(_MOST_REASONS):
        notes.append(f"{counted(count, 'stack')} not whole: {reason}")
    return notes


def _why_none(counts: Counts, wanted: Wanted) -> str:
    if not counts.moments:
        return (
            "the recording ended before the first moment came; take a higher --rate, or a longer --duration"
        )
    if counts.queued:
        return "each thread that was looked at had slept, and waited for a processor; --idle has those, too"
    idle = "" if wanted.idle else "; --idle has those that wait"
    return f"no thread ran when it was looked at{idle}"


def _print_table(recording: Recording, with_lines: bool, paint: Callable[..., str]) -> None:
    shares = Shares(with_lines)
    shares.add(recording)
    if not shares.weight:
        click.echo(summary(recording.origin, recording.counts, 0))
        return
    width = columns_of_stdout()
    text = "\n".join(lines(shares, recording.origin, recording.counts, paint, width, _MOST_FUNCTIONS))
    click.echo(folded(text, sys.stdout), color=paint is click.style)


# --- the difference of two


def _write_difference(names: tuple[str, str], output: Output | None, form: Form | None) -> None:
    if output is None or form is None or form.name != "html":
        raise click.UsageError("--diff writes a page: -o FILE.html")
    from jitunwind.profile.collapsed import read
    from jitunwind.profile.page import difference

    before, after = (read(_text(name), name) for name in names)
    output.write(difference(before, after))


def _text(name: str) -> str:
    with open(name, encoding="utf-8", errors="backslashreplace") as file:
        return file.read()
