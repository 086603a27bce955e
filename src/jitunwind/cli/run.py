"""`jitunwind run`: a Python program that publishes its JIT code."""

import os
import shutil

import click
from click.shell_completion import CompletionItem

from jitunwind.agent import built
from jitunwind.cli.handing_on import HandsOn, become
from jitunwind.cli.output import print_note, print_warning
from jitunwind.cli.verb import perf_option
from jitunwind.errors import CannotStart
from jitunwind.startup.launch import check_arguments, environment
from jitunwind.startup.pythons import Python, ask, find

_PYTHONS_OWN = (
    "--check-hash-based-pycs",
    "--help",
    "--help-all",
    "--help-env",
    "--help-xoptions",
    "--version",
)
"""Python's long options (Using/cmdline, CPython 3.15)."""


def _files(context: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem]:
    return [CompletionItem(typed, type="file")]


@click.command(cls=HandsOn, theirs=_PYTHONS_OWN)
@click.option(
    "--python",
    metavar="PYTHON",
    help="The Python to run.  [default: the first with a JIT of these: the one of the script's first line, python3 on "
    "PATH, the one that jitunwind runs in, the newest python3.N on PATH]",
    shell_complete=_files,
)
@perf_option
@click.argument(
    "arguments",
    nargs=-1,
    type=click.UNPROCESSED,
    metavar="[--] [SCRIPT | -m MODULE | -c CODE] [ARGS]...",
    shell_complete=_files,
)
def run(python: str | None, perf: str | None, arguments: tuple[str, ...]) -> None:
    """Run a Python program that publishes its JIT code.

    Everything is as if PYTHON had been called with these arguments, its own options included (but for -E, -I and
    -S). PYTHON needs nothing installed. Its JIT is switched on, unless PYTHON_JIT is set. Children publish too,
    where they are Pythons that have jitunwind installed.

    \b
    jitunwind run script.py an argument
    jitunwind run --python python3.14 -m module
    jitunwind run -X importtime -c "print(1)"
    jitunwind run --perf jitdump script.py

    Exit status: the program's own; 2 it cannot be started.
    """
    check_arguments(arguments)
    built.check()
    if python is not None:
        found = _named(python)
    else:
        found = find(arguments)
        print_note(
            f"runs in {found.path} (CPython {found.version_text}, {found.found}); --python names another"
        )
    path = found.path
    if found.warning:
        print_warning(found.warning)
    try:
        become(path, arguments, environment(os.environ, perf))
    except OSError as error:
        raise CannotStart(f"{path} cannot be run: {error.strerror}") from None


def _named(python: str) -> Python:
    found = shutil.which(python)
    if found is None:
        raise CannotStart(
            f"--python {python}: that is no program that can be run",
            "name an interpreter: a path, or a name on PATH such as python3.14",
        )
    return ask(found)
