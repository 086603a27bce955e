"""`jitunwind gdb`: GDB with the plugin."""

import os

import click

from jitunwind.cli.handing_on import HandsOn, become
from jitunwind.cli.verb import debug_dir_option
from jitunwind.errors import GdbFailed
from jitunwind.gdbplugin.debugfiles import setting
from jitunwind.gdbplugin.guardian import guard_this_process
from jitunwind.gdbplugin.launch import attached_to, find_gdb, load_line, why_unfit
from jitunwind.gdbplugin.thread_library import settings
from jitunwind.memory.live import deleted_executable, executable_here, is_alive
from jitunwind.memory.stopping import Standing, check_can_stop
from jitunwind.stacks.debugfiles import debug_folders


@click.command(cls=HandsOn)
@click.option(
    "--print-init", is_flag=True, help="Print the line for ~/.gdbinit that loads the plugin, and end."
)
@click.option("--gdb", "gdb_path", metavar="GDB", help="The GDB to run.  [default: $JITUNWIND_GDB, or gdb]")
@debug_dir_option
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[--] [GDB ARGS]...")
def gdb(
    print_init: bool, gdb_path: str | None, debug_dirs: tuple[str, ...], arguments: tuple[str, ...]
) -> None:
    """Run GDB with jitunwind's plugin.

    Every argument is handed on. In GDB, bt, up, finish, info frame, info symbol and x/i are right and named in JIT
    code; commands of its own are `info jit-regions` and `jit-rows`. The options below come before GDB's own; -- ends
    them, so that `jitunwind gdb -- --help` is GDB's help.

    \b
    jitunwind gdb -p PID
    jitunwind gdb -batch -p PID -ex bt
    jitunwind gdb python3.14 core

    A process named in GDB's arguments (-p PID, PYTHON PID, -ex 'attach PID') goes on when GDB has ended, even if GDB
    was killed. One that cannot be stopped now is refused.

    Exit status: GDB's own; 2 GDB cannot be started, or the process cannot be stopped now.
    """
    if print_init:
        click.echo(load_line())
        return
    path = find_gdb(gdb_path)
    unfit = why_unfit(path)
    if unfit is not None:
        raise GdbFailed(unfit)
    processes = [pid for pid in attached_to(arguments) if is_alive(pid)]
    for pid in processes:
        check_can_stop(pid)
    guardian = guard_this_process([Standing(pid) for pid in processes]) if processes else None
    threads = [word for line in settings(arguments, processes) for word in ("-iex", line)]
    programs = [argument for argument in arguments if os.path.isfile(argument)]
    if not programs:  # an older GDB finds no file that was deleted
        threads += [
            word for each in map(deleted_executable, processes) if each for word in ("-iex", f"file {each}")
        ]
    programs += filter(None, map(executable_here, processes))
    where = setting(debug_folders(debug_dirs, map(os.path.realpath, programs)))
    own = ["-iex", load_line(guardian=guardian), "-iex", where, *threads]
    become(path, [*own, *_as_it_is_here(), *arguments])


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
