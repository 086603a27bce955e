"""`jitunwind enable`: a running Python process publishes its JIT code from now on."""

import click

from jitunwind.agent import built
from jitunwind.cli.output import UNUSABLE, print_warning, progress
from jitunwind.cli.verb import Verb, target_argument
from jitunwind.startup.attach import enable_in


@click.command(cls=Verb)
@target_argument("PID")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait until the process can do it.",
)
@click.option(
    "--python",
    type=click.Path(),
    metavar="PYTHON",
    help="A Python of the same minor version, to make the request.  [default: the program of the process]",
)
@click.pass_context
def enable(context: click.Context, target: str, timeout: float, python: str | None) -> None:
    """Have a running Python publish its JIT code from now on.

    It is a process of CPython 3.14 or later. It executes jitunwind.enable(), in a thread of its own. It needs nothing
    installed. It is asked by way of sys.remote_exec, and does it when its main thread executes Python code next.

    Exit status: 0 it publishes; 2 it cannot, or has not begun in time, or its JIT is off.
    """
    pid = int(target)
    built.check()
    with progress(f"waiting for process {pid}"):
        is_on = enable_in(pid, python, timeout)
    if not is_on:
        print_warning(
            f"process {pid} has its JIT off (PYTHON_JIT=1 turns it on): there is nothing to publish"
        )
        context.exit(UNUSABLE)
    click.echo(f"process {pid} publishes its JIT code")
