"""How the command line speaks: errors, warnings and colours, plain where nobody is looking."""

from rich.console import Console
from rich.text import Text


def console(colour: str = "auto") -> Console:
    """Standard output. `colour`: auto (a terminal, and NO_COLOR not set), always, never."""
    return Console(
        force_terminal={"always": True, "never": False}.get(colour),
        no_color=colour == "never" or None,
        highlight=False,
        soft_wrap=True,
        emoji=False,
        markup=False,
    )


def error_console() -> Console:
    return Console(stderr=True, highlight=False, soft_wrap=True, emoji=False, markup=False)


def print_error(message: str, hint: str = "") -> None:
    err = error_console()
    err.print(Text.assemble(("error: ", "bold red"), message))
    if hint:
        err.print(Text.assemble(("  try: ", "bold"), hint))


def print_warning(message: str) -> None:
    error_console().print(Text.assemble(("warning: ", "bold yellow"), message))
