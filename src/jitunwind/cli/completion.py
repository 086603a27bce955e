"""`jitunwind completion`: the script that teaches a shell to complete jitunwind's commands."""

import click
from click.shell_completion import get_completion_class

from jitunwind.cli.verb import Verb


@click.command(cls=Verb)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of SHELL.

    \b
    bash: eval "$(jitunwind completion bash)"            in ~/.bashrc
    zsh:  eval "$(jitunwind completion zsh)"             in ~/.zshrc
    fish: jitunwind completion fish | source             in config.fish

    Exit status: 0 printed; 2 the shell is not known.
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise click.ClickException(f"{shell} cannot be completed by this version of click")
    click.echo(kind(context.find_root().command, {}, "jitunwind", "_JITUNWIND_COMPLETE").source())
