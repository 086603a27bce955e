"""`jitunwind gdb`: GDB with the plugin."""

import os

import click

from jitunwind.cli.handing_on import HandsOn
from jitunwind.errors import GdbFailed
from jitunwind.gdbplugin.launch import find_gdb, load_line, why_unfit


@click.command(cls=HandsOn, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--print-init", is_flag=True, help="Print the line for ~/.gdbinit that loads the plugin, and end."
)
@click.option("--gdb", "gdb_path", metavar="GDB", help="The GDB to run.  [default: $JITUNWIND_GDB, or gdb]")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[--] [GDB ARGS]...")
def gdb(print_init: bool, gdb_path: str | None, arguments: tuple[str, ...]) -> None:
    """Run GDB with jitunwind's plugin loaded; every argument is handed on.

    In it bt, up, finish, info frame, info symbol and x/i are right and named in JIT code; commands of its
    own are `info jit-regions` and `jit-rows`. The options below come before GDB's own; -- ends them, so that
    `jitunwind gdb -- --help` is GDB's help.

    \b
    jitunwind gdb -p PID
    jitunwind gdb -batch -p PID -ex bt
    jitunwind gdb python3.14 core
    """
    line = load_line()
    if print_init:
        click.echo(line)
        return
    path = find_gdb(gdb_path)
    unfit = why_unfit(path)
    if unfit is not None:
        raise GdbFailed(unfit)
    os.execv(path, [path, "-iex", line, *_as_it_is_here(), *arguments])


def _as_it_is_here() -> list[str]:
    """GDB from PyPI sets its own Python's environment, and what it starts would inherit that."""
    options = []
    for name in ("PYTHONHOME", "PYTHONPATH", "PYTHONNOUSERSITE"):
        value = os.environ.get(name)
        options += [
            "-iex",
            f"unset environment {name}" if value is None else f"set environment {name} {value}",
        ]
    return options
