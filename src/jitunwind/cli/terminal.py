"""Text to stdout and stderr, with styles where they are wanted.

As `click.echo` and `click.style`, without click: it takes longer to import than a stack takes to walk, and `bt` can do
without it (`quick`).
"""

import re
import sys

_COLOURS = {"black": 30, "red": 31, "green": 32, "yellow": 33, "blue": 34, "magenta": 35, "cyan": 36}
_RESET = "\x1b[0m"
_STYLED = r"\x1b\[[;?0-9]*[a-zA-Z]"


def style(text: str, fg: str | None = None, bold: bool = False, dim: bool = False) -> str:
    """`text` with the sequences that give it a style (ECMA-48, SGR) before it and behind it."""
    colour = f"\x1b[{_COLOURS[fg]}m" if fg is not None else ""
    return f"{colour}{_BOLD if bold else ''}{_DIM if dim else ''}{text}{_RESET}"


def plain(text: str, fg: str | None = None, bold: bool = False, dim: bool = False) -> str:
    """`text` as it is: in the place of `style`, where no styles are wanted."""
    return text


def columns_of_stdout() -> int | None:
    """The width of the terminal that stdout is; None where it is none."""
    if not sys.stdout.isatty():
        return None
    import shutil  # in a pipe `bt` starts faster without it

    return shutil.get_terminal_size().columns


_BOLD, _DIM = "\x1b[1m", "\x1b[2m"


def echo(text: str = "", err: bool = False, nl: bool = True, color: bool | None = None) -> None:
    """Print to stdout, or to stderr (`err`), at once. Styles are kept if `color` says so (None: on a terminal)."""
    stream = sys.stderr if err else sys.stdout
    if "\x1b" in text and not (stream.isatty() if color is None else color):
        text = re.sub(_STYLED, "", text)
    stream.write(f"{text}\n" if nl else text)
    stream.flush()
