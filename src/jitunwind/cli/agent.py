"""`jitunwind agent`: what a C compiler has to be told to use the agent."""

import click

from jitunwind.agent import built
from jitunwind.cli.verb import Verb


@click.command(cls=Verb)
@click.option("--cflags", is_flag=True, help="Print the compiler's option for the header, jitunwind.h.")
@click.option("--libs", is_flag=True, help="Print the shared object to link with.")
@click.option("--pkgconfig", is_flag=True, help="Print the folder of jitunwind.pc, for PKG_CONFIG_PATH.")
def agent(cflags: bool, libs: bool, pkgconfig: bool) -> None:
    """Print the compiler options for the agent's C interface.

    It is for JITs written in C, C++ or Rust.

    \b
    cc jit.c $(jitunwind agent --cflags --libs)
    export PKG_CONFIG_PATH=$(jitunwind agent --pkgconfig)
    cc jit.c $(pkg-config jitunwind --cflags --libs)

    Without an option: what --cflags and --libs print. The shared object's path becomes part of what is linked; a
    program that must not depend on it may load it with dlopen(3) instead.

    Exit status: 0 printed; 2 the agent was not built.
    """
    built.check()
    if pkgconfig:
        click.echo(built.FOLDER)
        return
    words = [f"-I{built.FOLDER}"] if cflags or not libs else []
    if libs or not cflags:
        words.append(built.AGENT)
    click.echo(" ".join(words))
