"""`jitunwind run`: a Python program that publishes its JIT code."""

import os
import shutil
import sys

import click
from click.shell_completion import CompletionItem

from jitunwind.agent import built
from jitunwind.cli.handing_on import HandsOn, become
from jitunwind.errors import CannotStart
from jitunwind.startup.launch import check_arguments, environment

_OLDEST = (3, 14)


def _files(context: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem]:
    return [CompletionItem(typed, type="file")]


@click.command(cls=HandsOn, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--python",
    metavar="PYTHON",
    help="The Python to run.  [default: the one that jitunwind runs in]",
    shell_complete=_files,
)
@click.argument(
    "arguments",
    nargs=-1,
    type=click.UNPROCESSED,
    metavar="[--] [SCRIPT | -m MODULE | -c CODE] [ARGS]...",
    shell_complete=_files,
)
def run(python: str | None, arguments: tuple[str, ...]) -> None:
    """Run a Python program, and publish its JIT code from the beginning on.

    Everything is as if PYTHON had been called with these arguments, its own options included (but for -E, -I and
    -S). PYTHON needs nothing installed. Its JIT is switched on, unless PYTHON_JIT is set. Children publish too,
    where they are Pythons that have jitunwind installed.

    \b
    jitunwind run script.py an argument
    jitunwind run --python python3.14 -m module
    jitunwind run -X importtime -c "print(1)"

    The exit status is the program's; 2, where it cannot be started.
    """
    check_arguments(arguments)
    built.check()
    path = _python(python)
    try:
        become(path, arguments, environment(os.environ))
    except OSError as error:
        raise CannotStart(f"{path} cannot be run: {error.strerror}") from None


def _python(named: str | None) -> str:
    if named is None:
        if sys.version_info[:2] < _OLDEST:
            raise CannotStart(
                f"jitunwind runs in Python {sys.version_info[0]}.{sys.version_info[1]}, which has no JIT",
                "name a Python that has one: jitunwind run --python python3.14 ...",
            )
        return sys.executable
    found = shutil.which(named)
    if found is None:
        raise CannotStart(f"--python {named}: that is no program that can be run")
    return found
