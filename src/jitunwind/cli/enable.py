"""`jitunwind enable` and `disable`: a running Python process publishes its JIT code from now on, or no more."""

from collections.abc import Callable
from typing import Any

import click

from jitunwind.agent import built
from jitunwind.cli.output import UNUSABLE, print_warning, reporting
from jitunwind.cli.verb import Seconds, Verb, perf_option, target_argument
from jitunwind.startup.attach import Answer, disable_in, enable_in
from jitunwind.wording import counted


def _asking(command: Callable[..., Any]) -> Callable[..., Any]:
    """The arguments that both have."""
    for option in (
        click.option(
            "--timeout",
            type=Seconds(min=0),
            default=10.0,
            show_default=True,
            metavar="SECONDS",
            help="How long to wait until the process can do it.",
        ),
        target_argument("PID"),
    ):
        command = option(command)
    return command


def _warn(answer: Answer) -> None:
    if answer.warning:
        print_warning(answer.warning)


@click.command(cls=Verb)
@_asking
@perf_option
@click.pass_context
def enable(context: click.Context, target: str, timeout: float, perf: str | None) -> None:
    """Have a running Python publish its JIT code from now on.

    It is a process of CPython 3.14 or later. It executes jitunwind.enable(), in a thread of its own. It needs nothing
    installed. It is asked by way of PEP 768, as sys.remote_exec asks, and
    does it when its main thread executes Python code next.
    `jitunwind disable PID` ends it.

    Exit status: 0 it publishes; 2 it cannot, or has not begun in time, or its JIT is off.
    """
    pid = int(target)
    built.check()
    with reporting(f"waiting for process {pid}"):
        answer = enable_in(pid, timeout, perf)
    _warn(answer)
    if answer.is_off:
        print_warning(
            f"process {pid} has its JIT off (PYTHON_JIT=1 turns it on): there is nothing to publish"
        )
        context.exit(UNUSABLE)
    does = "publishes its JIT code already" if answer.already else "publishes its JIT code"
    click.echo(
        f"process {pid} {does}: {counted(answer.regions, 'region')} so far; new code follows by itself"
    )
    if answer.files:
        click.echo(f"for perf it writes {_listed(answer)}")
    if perf is not None:
        click.echo(f"next: {_FOR_PERF[perf].format(pid)}")
    click.echo(f"next: gdb -p {pid}, and bt there; jitunwind disable {pid} ends it")


_FOR_PERF = {
    "jitdump": "perf record -k mono --call-graph dwarf -p {} -o perf.data, then perf inject --jit -i perf.data -o "
    "jit.data, then perf report -i jit.data",
    "map": "perf record --call-graph fp -p {}, then perf report",
}
"""docs/profiling.md has more."""


def _listed(answer: Answer) -> str:
    return " and ".join(
        f"{file} ({'from now on' if file in answer.new_files else 'as before'})" for file in answer.files
    )


@click.command(cls=Verb)
@_asking
def disable(target: str, timeout: float) -> None:
    """Have a running Python publish its JIT code no more.

    It executes jitunwind.disable(), which withdraws what `jitunwind enable`, `jitunwind run` or JITUNWIND=1 has had it
    publish. What CPython 3.15 itself had registered does not come back. It is asked as by `jitunwind enable`.

    Exit status: 0 it does not publish; 2 it could not be asked, or has not answered in time.
    """
    pid = int(target)
    with reporting(f"waiting for process {pid}"):
        answer = disable_in(pid, timeout)
    _warn(answer)
    if answer.already:
        click.echo(f"process {pid} does not publish its JIT code: nothing was changed")
    else:
        click.echo(
            f"process {pid} publishes its JIT code no more: {counted(answer.regions, 'region')} withdrawn"
        )
