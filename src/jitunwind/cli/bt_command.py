"""The command line of `jitunwind bt`: its options, and its help. `quick` reads most command lines without it."""

import os
from typing import Any

import click

from jitunwind.cli.bt import show
from jitunwind.cli.usage import WrongUsage
from jitunwind.cli.verb import (
    Seconds,
    Verb,
    color_option,
    debug_dir_option,
    debuginfod_option,
    target_argument,
)


@click.command(cls=Verb)
@target_argument("PID|CORE...", nargs=-1)
@click.option("--exe", metavar="PYTHON", help="The program that left the core.  [default: as the core says]")
@click.option("--thread", type=int, metavar="TID", help="Only the thread with this kernel id.")
@click.option("--python", "python", is_flag=True, help="Interleave the interpreter's pure Python frames.")
@click.option("--python-only", is_flag=True, help="Only Python functions, those in JIT code included.")
@click.option("--native-only", is_flag=True, help="Only C functions; JIT code and shims are left out.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--watch", type=Seconds(min=0.1), metavar="SECONDS", help="Again every so often, until Ctrl-C.")
@color_option
@click.option("--full-paths", is_flag=True, help="Print whole paths, not the names of files alone.")
@click.option("--no-lines", is_flag=True, help="Leave files and lines out.")
@click.option("--c-lines", is_flag=True, help="Lines of C functions, too, and the functions inlined there.")
@debug_dir_option
@debuginfod_option
@click.option("--gdb", "gdb_path", metavar="GDB", help="Have this GDB do it.")
@click.pass_context
def bt(context: click.Context, /, **values: Any) -> None:
    """Print the native stacks of processes or cores.

    Each thread's stack is shown as a whole. JIT frames have the name of their Python function, and the line it
    runs. The process stands still for as long as the last line says, and goes on.

    Exit status: 0 all stacks are whole, or with --watch the processes have ended; 2 the input cannot be used, a
    stack is not whole, or the process has no JIT code because its JIT is off or it is no Python (its stack is
    printed all the same); of several the worst; 130 interrupted.
    """
    refuse_contradictions(context)
    if values["debuginfod"] and not os.environ.get("DEBUGINFOD_URLS"):
        raise click.UsageError(
            "--debuginfod needs the servers' addresses in the environment: DEBUGINFOD_URLS"
        )
    context.exit(show(**values))


_CONTRADICTIONS = (
    ("python_only", "native_only"),
    ("python", "native_only"),
    ("c_lines", "python_only"),
    ("c_lines", "no_lines"),
)


def refuse_contradictions(context: click.Context) -> None:
    """WrongUsage."""
    for pair in _CONTRADICTIONS:
        if all(context.params[each] for each in pair):
            one, other = (f"--{each.replace('_', '-')}" for each in pair)
            raise WrongUsage(f"{one} and {other} contradict each other", "one of the two", context)
