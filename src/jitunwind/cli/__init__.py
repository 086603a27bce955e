"""The command line: one module per verb, argument parsing and printing only."""

import sys

import click

from jitunwind.cli.bt import bt
from jitunwind.cli.completion import completion
from jitunwind.cli.gdb import gdb
from jitunwind.cli.output import print_error
from jitunwind.errors import JitunwindError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="jitunwind")
def cli() -> None:
    """Native stacks of Python processes, through JIT code: complete, exact and named.

    Exit status: 0 all is well; 2 the input cannot be used, or the answer is not whole; 130 interrupted.
    """


cli.add_command(bt)
cli.add_command(gdb)
cli.add_command(completion)


def main() -> None:
    """Run the command line. Errors that a person can do something about are two lines, not a traceback."""
    try:
        cli(standalone_mode=False)
    except JitunwindError as error:
        print_error(str(error), error.hint)
        sys.exit(2)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
