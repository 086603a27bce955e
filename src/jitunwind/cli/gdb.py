"""`jitunwind gdb`: GDB with the plugin."""

import os

import click

from jitunwind.gdbplugin.launch import find_gdb, load_line


@click.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]},
    add_help_option=True,
)
@click.option(
    "--print-init", is_flag=True, help="Print the line for ~/.gdbinit that loads the plugin, and end."
)
@click.option("--gdb", "gdb_path", metavar="GDB", help="The GDB to run.  [default: $JITUNWIND_GDB, or gdb]")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[GDB ARGS]...")
def gdb(print_init: bool, gdb_path: str | None, arguments: tuple[str, ...]) -> None:
    """Run GDB with jitunwind's plugin loaded; every argument is handed on.

    In it bt, up, finish, info frame, info symbol and x/i are right and named in JIT code; commands of its
    own are `info jit-regions` and `jit-rows`.

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
    os.execv(path, [path, "-iex", line, *arguments])
