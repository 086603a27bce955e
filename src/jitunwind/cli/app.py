"""The verbs put together."""

from importlib import import_module

import click
from click.shell_completion import CompletionItem

from jitunwind.cli.bt_command import bt
from jitunwind.cli.completion import completion
from jitunwind.cli.ending import status_of
from jitunwind.cli.output import INTERRUPTED, UNUSABLE, print_error
from jitunwind.cli.ownprocess import ended_by_interrupts
from jitunwind.cli.usage import in_words, no_such_verb
from jitunwind.cli.verb import Context, Verb

_LAZY = {
    name: name
    for name in ("agent", "audit", "check", "doctor", "dump", "enable", "explain", "gdb", "record", "run")
} | {"disable": "enable"}
"""Verbs that are imported when they are asked for, so that the others start as fast without them, and their modules."""


class _Verbs(click.Group):
    """The verbs, those of `_LAZY` included."""

    context_class = Context

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted([*super().list_commands(context), *_LAZY])

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name in _LAZY:
            with ended_by_interrupts():
                command: click.Command = getattr(import_module(f"jitunwind.cli.{_LAZY[name]}"), name)
            return command
        return super().get_command(context, name)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), err=True)
            ctx.exit(UNUSABLE)
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if not ctx.resilient_parsing and self.get_command(ctx, args[0]) is None:
            raise no_such_verb(args[0], self.list_commands(ctx), ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Each with its whole summary, wrapped in a narrow terminal."""
        known = [(name, self.get_command(context, name)) for name in self.list_commands(context)]
        rows = [(name, _summary(command)) for name, command in known if command is not None]
        with formatter.section("Verbs"):
            formatter.write_dl(rows)


def _summary(command: click.Command) -> str:
    """The first sentence of its help."""
    return " ".join((command.help or "").partition("\n\n")[0].split()).removesuffix(".")


@click.group(
    cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]}, subcommand_metavar="VERB [ARGS]..."
)
@click.version_option(None, "-V", "--version", package_name="jitunwind")
def cli() -> None:
    """Native stacks of Python processes, through JIT code: complete, exact and named.

    Exit status: 0 all is well; 1 audit or check found something wrong; 2 the input cannot be used, or the answer
    is not whole; 130 interrupted.
    """


def _verbs(context: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem]:
    verbs = cli.list_commands(context)
    return [CompletionItem(verb) for verb in verbs if verb.startswith(typed)]


@click.command("help", cls=Verb)
@click.argument("verb", required=False, metavar="[VERB]", shell_complete=_verbs)
@click.pass_context
def print_help(context: click.Context, verb: str | None) -> None:
    """Show the help of VERB, or of jitunwind.

    Exit status: 0 shown; 2 there is no such verb.
    """
    root = context.find_root()
    if verb is None:
        click.echo(root.get_help())
        return
    command = cli.get_command(root, verb)
    if command is None:
        raise no_such_verb(verb, cli.list_commands(root), root)
    click.echo(command.get_help(Context(command, root, verb)))


cli.add_command(bt)
cli.add_command(completion)
cli.add_command(print_help)


def run() -> int:
    """Run the command line; gives the exit status."""
    return status_of(_run)


def _run() -> object:
    try:
        return cli(prog_name="jitunwind", standalone_mode=False)
    except click.ClickException as error:
        print_error(*in_words(error))
        return UNUSABLE
    except click.Abort:
        return INTERRUPTED
