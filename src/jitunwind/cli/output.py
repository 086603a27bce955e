"""How the command line speaks: errors, warnings and colours, plain where nobody is looking."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TextIO

import click

FOUND, UNUSABLE, INTERRUPTED = 1, 2, 130
"""Exit statuses besides 0: something is wrong in what was looked at; the input, or the answer, is not usable or
not whole; a signal ended it."""
ERASE_LINE = "\r\x1b[2K"


def is_coloured(choice: str, stream: TextIO) -> bool:
    """Whether to colour what goes to `stream`. `choice`: always, never, or auto: as NO_COLOR and FORCE_COLOR
    say (no-color.org, force-color.org), else on a terminal that is not dumb."""
    if choice != "auto":
        return choice == "always"
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def printable(text: str) -> str:
    """`text` of the process's own making, with what could command a terminal made visible."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


@contextlib.contextmanager
def progress(text: str) -> Iterator[None]:
    """Says what is being done while it is, on a terminal only."""
    if not (sys.stderr.isatty() and is_coloured("auto", sys.stderr)):
        yield
        return
    click.echo(f"{text} …", err=True, nl=False)
    try:
        yield
    finally:
        click.echo(ERASE_LINE, err=True, nl=False, color=True)


def print_error(message: str, hint: str = "") -> None:
    _say("error", "red", message)
    if hint:
        _say("  try", None, hint)


def print_note(message: str) -> None:
    _say("note", None, message)


def print_warning(message: str) -> None:
    _say("warning", "yellow", message)


def _say(what: str, colour: str | None, message: str) -> None:
    label = click.style(f"{what}:", fg=colour, bold=True)
    click.echo(f"{label} {printable(message)}", err=True, color=is_coloured("auto", sys.stderr))
