"""The verbs put together, and how each way to end becomes an exit status."""

from importlib import import_module

import click

from jitunwind.cli.bt import bt
from jitunwind.cli.completion import completion
from jitunwind.cli.gdb import gdb
from jitunwind.cli.output import INTERRUPTED, UNUSABLE, print_error
from jitunwind.errors import JitunwindError

_LAZY = {name: name for name in ("agent", "audit", "check", "dump", "enable", "explain", "run")} | {
    "disable": "enable"
}
"""Verbs that are imported when they are asked for, so that the others start as fast without them, and their modules."""


class _Verbs(click.Group):
    """The verbs, those of `_LAZY` included."""

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted([*super().list_commands(context), *_LAZY])

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name in _LAZY:
            command: click.Command = getattr(import_module(f"jitunwind.cli.{_LAZY[name]}"), name)
            return command
        return super().get_command(context, name)


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="jitunwind")
def cli() -> None:
    """Native stacks of Python processes, through JIT code: complete, exact and named.

    Exit status: 0 all is well; 1 audit or check found something wrong; 2 the input cannot be used, or the answer
    is not whole; 130 interrupted.
    """


cli.add_command(bt)
cli.add_command(gdb)
cli.add_command(completion)


def run() -> int:
    """Run the command line; gives the exit status. What a person can mend is two lines, not a traceback."""
    try:
        status = cli(prog_name="jitunwind", standalone_mode=False)
    except JitunwindError as error:
        print_error(str(error), error.hint)
        return UNUSABLE
    except click.ClickException as error:
        error.show()
        return UNUSABLE
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    return status if isinstance(status, int) else 0
