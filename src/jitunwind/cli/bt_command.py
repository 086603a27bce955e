"""The command line of `jitunwind bt`: its options, and its help."""

import os
from typing import Any

import click

from jitunwind.cli.bt import show
from jitunwind.cli.verb import Verb, color_option, debug_dir_option, debuginfod_option, target_argument


@click.command(cls=Verb)
@target_argument("PID|CORE")
@click.option("--exe", metavar="PYTHON", help="The program that left the core.  [default: as the core says]")
@click.option("--thread", type=int, metavar="TID", help="Only the thread with this kernel id.")
@click.option("--python", "python", is_flag=True, help="Interleave the interpreter's pure Python frames.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@color_option
@click.option("--full-paths", is_flag=True, help="Print whole paths, not the names of files alone.")
@click.option("--c-lines", is_flag=True, help="Lines of C functions, too, and the functions inlined there.")
@debug_dir_option
@debuginfod_option
@click.option("--gdb", "gdb_path", metavar="GDB", help="Have this GDB do it.")
@click.pass_context
def bt(context: click.Context, /, **values: Any) -> None:
    """Print the native stacks of a process or a core.

    Each thread's stack is shown as a whole. JIT frames have the name of their Python function, and the line it
    runs. The process stands still for as long as the last line says, and goes on.

    Exit status: 0 all stacks are whole; 2 the input cannot be used, a stack is not whole, or the process has
    no JIT code because its JIT is off or it is no Python (its stack is printed all the same); 130 interrupted.
    """
    if values["debuginfod"] and not os.environ.get("DEBUGINFOD_URLS"):
        raise click.UsageError(
            "--debuginfod needs the servers' addresses in the environment: DEBUGINFOD_URLS"
        )
    context.exit(show(**values))
