"""Commands that hand their arguments on to another program, and become it."""

import os
import signal
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import click

from jitunwind.cli.ownprocess import INHERITED_SIGCHLD
from jitunwind.cli.usage import alike, no_such_option
from jitunwind.cli.verb import Verb


def become(path: str, arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> NoReturn:
    """Have this process execute the program at `path` instead. OSError as os.execve."""
    signal.signal(signal.SIGCHLD, INHERITED_SIGCHLD)
    os.execve(path, [path, *arguments], environment)


class HandsOn(Verb):
    """A command whose own options come first; the first other argument and all behind it are handed on as they
    are, except a `--` that ends its own. Its options are all of one word, or of two (`--gdb GDB`).

    Of the program's own long options it has to be told (`theirs`) to recognise its own when they are mistyped.
    """

    def __init__(self, *arguments: Any, theirs: Sequence[str] | None = None, **options: Any) -> None:
        super().__init__(*arguments, prints=False, **options)
        self._theirs = theirs

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
        rest = args[own:]
        if rest[:1] == ["--"]:
            rest = rest[1:]
        elif rest and self._theirs is not None:
            name = rest[0].partition("=")[0]
            if name.startswith("--") and name not in self._theirs and alike(name, flags | with_value):
                raise no_such_option(name, ctx)
        return super().parse_args(ctx, [*args[:own], "--", *rest])
