"""How the command line speaks: errors, warnings and colours, plain where nobody is looking."""

import contextlib
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import TextIO

from jitunwind.cli.terminal import echo, style
from jitunwind.wording import printable

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


@contextlib.contextmanager
def progress(text: str) -> Iterator[None]:
    """Says what is being done while it is, on a terminal only."""
    if not (sys.stderr.isatty() and is_coloured("auto", sys.stderr)):
        yield
        return
    echo(f"{text} …", err=True, nl=False)
    try:
        yield
    finally:
        echo(ERASE_LINE, err=True, nl=False, color=True)


PATIENCE = 3.0
"""Seconds after which whoever waits is told what for, terminal or not."""
_AGAIN = 30.0


@contextlib.contextmanager
def reporting(text: str) -> Iterator[Callable[[int, int], None]]:
    """As `progress`, for what can take minutes. Gives a function to say how many are done, of how many: shown after
    three seconds, on a terminal every second, and elsewhere as a line of its own every half minute."""
    import threading  # verbs that are over at once start faster without it

    begin, ended = time.monotonic(), threading.Event()
    state = [(0, 0)]
    redraws = sys.stderr.isatty() and is_coloured("auto", sys.stderr)

    def say() -> None:
        wait = PATIENCE
        while not ended.wait(wait):
            done, of = state[0]
            how_far = f", {done:,} of {of:,}" if of else ""
            said = f"{text}: {time.monotonic() - begin:.0f} s{how_far}"
            wait = 1.0 if redraws else _AGAIN
            with contextlib.suppress(OSError, ValueError):
                echo(f"{ERASE_LINE}{said} …" if redraws else said, err=True, nl=not redraws, color=True)

    def note(done: int, of: int) -> None:
        state[0] = (done, of)

    speaker = threading.Thread(target=say, daemon=True)
    with progress(text):
        speaker.start()
        try:
            yield note
        finally:
            ended.set()
            speaker.join()


def columns(stream: TextIO, otherwise: int) -> int:
    """How many columns `stream` has: as COLUMNS says, else the terminal; `otherwise` where it is none."""
    if not stream.isatty() and not os.environ.get("COLUMNS", "").isdigit():
        return otherwise
    import shutil

    return max(shutil.get_terminal_size().columns, _NARROWEST)


_NARROWEST = 40


_STYLED = re.compile(r"((?:\x1b\[[0-9;]*m)*)([^\x1b]*)((?:\x1b\[0m)?)")


def folded(text: str, stream: TextIO) -> str:
    """`text` with lines that `stream`, a terminal, has no room for broken between words; each is of one style."""
    width = columns(stream, 0) if stream.isatty() else 0
    return "\n".join(_folded(line, width) for line in text.split("\n")) if width else text


def _folded(line: str, width: int) -> str:
    styled = _STYLED.fullmatch(line)
    if styled is None or len(styled[2]) <= width:
        return line
    begin, plain, end = styled.groups()
    indent = " " * (len(plain) - len(plain.lstrip()))
    import textwrap

    parts = textwrap.wrap(
        plain.lstrip(),
        width,
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(f"{begin}{part}{end}" for part in parts)


def print_error(message: str, hint: str = "") -> None:
    _say("error", "red", message)
    if hint:
        _say("  try", None, hint)


def print_note(message: str) -> None:
    _say("note", None, message)


def print_warning(message: str) -> None:
    _say("warning", "yellow", message)


def _say(what: str, colour: str | None, message: str) -> None:
    label = style(f"{what}:", fg=colour, bold=True)
    plain = f"{what}: {printable(message)}"
    shown = folded(plain, sys.stderr).replace(f"{what}:", label, 1)
    echo(shown, err=True, color=is_coloured("auto", sys.stderr))
