"""How the command line speaks: errors, warnings and colours, plain where nobody is looking."""

import contextlib
import sys
from collections.abc import Iterator

from rich.console import Console
from rich.text import Text


def console(colour: str = "auto") -> Console:
    """Standard output. `colour`: auto (a terminal, and NO_COLOR not set), always, never."""
    return Console(
        force_terminal={"always": True, "never": False}.get(colour),
        no_color={"always": False, "never": True}.get(colour),
        highlight=False,
        soft_wrap=True,
        emoji=False,
        markup=False,
    )


def error_console() -> Console:
    return Console(stderr=True, highlight=False, soft_wrap=True, emoji=False, markup=False)


@contextlib.contextmanager
def progress(text: str) -> Iterator[None]:
    """Says what is being done while it is, on a terminal only."""
    if not sys.stderr.isatty():
        yield
        return
    with error_console().status(text):
        yield


def print_error(message: str, hint: str = "") -> None:
    err = error_console()
    err.print(Text.assemble(("error: ", "bold red"), message))
    if hint:
        err.print(Text.assemble(("  try: ", "bold"), hint))


def print_warning(message: str) -> None:
    error_console().print(Text.assemble(("warning: ", "bold yellow"), message))
