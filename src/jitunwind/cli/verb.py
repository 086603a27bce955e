"""What verbs have in common: how their arguments are read, the options that several have, and their help."""

import contextlib
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from jitunwind.cli.ending import saying_if_ended
from jitunwind.cli.files import OutputFile
from jitunwind.cli.output import reporting
from jitunwind.cli.streams import check_stdout
from jitunwind.cli.usage import WrongUsage
from jitunwind.errors import JitunwindError
from jitunwind.memory.live import is_number

_WIDEST, _MARGIN = 80, 2
_PID = "jitunwind.pid"

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class Number(click.FloatRange):
    """A number in a range, which "nan" is not."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a valid {self.name}.", param, ctx)
        return number


class Seconds(Number):
    """A time to wait, at most a year."""

    name = "number of seconds"

    def __init__(self, **limits: Any) -> None:
        super().__init__(max=365 * 24 * 3600.0, **limits)


class _Formatter(click.HelpFormatter):
    """Help that fits narrow terminals, too: the names of options take a third at most."""

    def write_dl(self, rows: Any, col_max: int = 30, col_spacing: int = 2) -> None:
        super().write_dl(rows, min(col_max, self.width // 3), col_spacing)


class Context(click.Context):
    """Lays out help for the terminal's width, 80 columns at most."""

    def make_formatter(self) -> click.HelpFormatter:
        columns = min(shutil.get_terminal_size().columns, _WIDEST)
        return _Formatter(width=max(columns - _MARGIN, _WIDEST // 4))


class Verb(click.Command):
    """A verb. Empty arguments are refused; so is a closed stdout, before any work, if `prints`."""

    context_class = Context

    def __init__(self, *arguments: Any, prints: bool = True, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._prints = prints

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            if not ctx.resilient_parsing:
                self._refuse_empty(ctx, args)
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx  # the parser's have none
            raise

    def invoke(self, ctx: click.Context) -> Any:
        if self._prints:
            check_stdout()
        target = _only_target(ctx)
        with plain_core(target) as plain:
            if plain != target:
                given = ctx.params["target"]
                ctx.params["target"] = (plain,) if isinstance(given, tuple) else plain
            with saying_if_ended(target):
                return super().invoke(ctx)

    def _refuse_empty(self, context: click.Context, arguments: Sequence[str]) -> None:
        """Most often an empty argument is a shell variable that is not set."""
        given, _, _ = self.make_parser(context).parse_args(args=list(arguments))
        for parameter in self.get_params(context):
            values = given.get(str(parameter.name))
            values = list(values) if isinstance(values, list | tuple) else [values]
            if not context.allow_interspersed_args and isinstance(parameter, click.Argument):
                del values[1:]  # a command's own arguments
            if "" in values and parameter.type is not click.UNPROCESSED:
                name = max(parameter.opts, key=len)
                name = str(parameter.metavar) if isinstance(parameter, click.Argument) else name
                raise WrongUsage(f"{name} is empty", f"{context.command_path} --help", context)


def _only_target(context: click.Context) -> str:
    """The argument `target`, where it is one; else empty."""
    target = context.params.get("target")
    if isinstance(target, tuple):
        target = target[0] if len(target) == 1 else None
    return target if isinstance(target, str) else ""


@contextlib.contextmanager
def plain_core(target: str) -> Iterator[str]:
    """While this lasts, the plain form of a compressed core; what else `target` is, as it is. Errors name the
    latter."""
    if not target or is_number(target) or not os.path.isfile(target):
        yield target
        return
    from jitunwind.memory.packed import is_packed, unpacked  # with a process verbs start faster without it

    if not is_packed(Path(target)):
        yield target
        return
    with contextlib.ExitStack() as stack:
        with reporting(f"unpacking {target}") as note:
            plain = str(stack.enter_context(unpacked(Path(target), note)))
        click.get_current_context().meta.setdefault(_PACKED, {})[plain] = target
        try:
            yield plain
        except JitunwindError as error:
            error.args = (str(error).replace(plain, target), *error.args[1:])
            raise


def named(target: str) -> str:
    """What the user called `target`: the compressed core, where that is its plain form."""
    context = click.get_current_context(silent=True)
    return str(context.meta.get(_PACKED, {}).get(target, target)) if context is not None else target


_PACKED = "jitunwind.packed"
"""Compressed cores by their plain forms."""


def target_argument(metavar: str, nargs: int = 1, required: bool = True) -> Decorator:
    """The argument `target`, for which -p PID can stand: a string, or a tuple of them where `nargs` is -1."""

    def read(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        pid = context.meta.get(_PID)
        if context.resilient_parsing:
            return value
        if pid is not None and value:
            given = value if isinstance(value, str) else " ".join(value)
            raise WrongUsage(f"both --pid {pid} and {given} are given", "one of the two", context)
        if not value and pid is None and required:
            raise click.MissingParameter(ctx=context, param=parameter)
        if metavar == "PID" and value and not is_number(value):
            raise click.BadParameter(f"{value} is no process number", context, parameter)
        return (pid,) if pid is not None and nargs == -1 else pid or value

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        named = click.argument("target", metavar=metavar, nargs=nargs, required=False, callback=read)
        return named(_pid(function))

    return decorate


def _note_pid(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None and not context.resilient_parsing:
        if not is_number(value):
            raise click.BadParameter(f"{value} is no process number", context, parameter)
        context.meta[_PID] = value


_pid = click.option(
    "-p",
    "--pid",
    metavar="PID",
    is_eager=True,
    expose_value=False,
    callback=_note_pid,
    help="The process, in place of the argument.",
)
color_option = click.option(
    "--color",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="Colour the text; auto: on a terminal, unless NO_COLOR is set.",
)
debug_dir_option = click.option(
    "--debug-dir",
    "debug_dirs",
    multiple=True,
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False),
    envvar="JITUNWIND_DEBUG_DIR",
    help="Look for debug files here, too; may be given again.  [default: $JITUNWIND_DEBUG_DIR]",
)
debuginfod_option = click.option(
    "--debuginfod",
    is_flag=True,
    help="Fetch debug files that are not here from the servers in $DEBUGINFOD_URLS.",
)
markdown_option = click.option(
    "--markdown",
    type=OutputFile(),
    metavar="FILE",
    help="Write the report as Markdown, too; -: to stdout alone.",
)
junit_option = click.option(
    "--junit",
    type=OutputFile(),
    metavar="FILE",
    help="Write the report as JUnit XML, too; -: to stdout alone.",
)
perf_option = click.option(
    "--perf",
    type=click.Choice(["jitdump", "map"]),
    help="Write a file of the JIT code for perf: /tmp/jit-PID.dump (code, names, lines, unwind tables), or "
    "/tmp/perf-PID.map (names).",
)
