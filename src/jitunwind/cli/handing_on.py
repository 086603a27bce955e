"""Commands that hand their arguments on to another program, and become it."""

import os
import signal
from collections.abc import Mapping, Sequence
from typing import NoReturn

import click

from jitunwind.cli import INHERITED_SIGCHLD


def become(path: str, arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> NoReturn:
    """Have this process execute the program at `path` instead. OSError as os.execve."""
    signal.signal(signal.SIGCHLD, INHERITED_SIGCHLD)
    os.execve(path, [path, *arguments], environment)


class HandsOn(click.Command):
    """A command whose own options come first; the first other argument and all behind it are handed on as they
    are, but for a `--` that ends its own. Its options are all of one word, or of two (`--gdb GDB`)."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        options = [each for each in self.get_params(ctx) if isinstance(each, click.Option)]
        flags = {name for option in options if option.is_flag for name in option.opts}
        with_value = {name for option in options if not option.is_flag for name in option.opts}
        own = 0
        while own < len(args):
            name, equals, _ = args[own].partition("=")
            if args[own] in flags or (equals and name in with_value):
                own += 1
            elif args[own] in with_value:
                own += 2
            else:
                break
        rest = args[own + 1 :] if args[own : own + 1] == ["--"] else args[own:]
        return super().parse_args(ctx, [*args[:own], "--", *rest])
