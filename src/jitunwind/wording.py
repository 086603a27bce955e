"""Numbers and lists as sentences have them (`1 region`, `rbx and r12 to r15`), and text made safe to print."""

import os
import re
from collections.abc import Sequence
from itertools import groupby

_LEAST_RUN = 3
"""So many registers in a row are named by the first and the last."""
_NO_FILES_OF_THEIR_OWN = ("__init__.py", "__main__.py")
"""Files whose name says nothing without that of their folder."""


def counted(number: int, noun: str, plural: str = "") -> str:
    """`number` with its noun; `plural` where that is not the noun with an s."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def listed(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def runs(names: Sequence[str]) -> list[str]:
    """Registers in their order, those with numbers in a row as one word: `rbx`, `rbp`, `r12 to r15`."""
    numbered = [re.fullmatch(r"([a-z]+)(\d+)", name) for name in names]
    keys = [
        (match[1], int(match[2]) - place) if match else (name, 0)
        for place, (name, match) in enumerate(zip(names, numbered, strict=True))
    ]
    words: list[str] = []
    for _, group in groupby(zip(keys, names, strict=True), key=lambda each: each[0]):
        run = [name for _, name in group]
        words += [f"{run[0]} to {run[-1]}"] if len(run) >= _LEAST_RUN else run
    return words


def printable(text: str) -> str:
    """`text` of the process's own making, with what could command a terminal made visible."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def short_path(path: str) -> str:
    """The name of the file at `path`, with that of its folder where it says nothing alone."""
    folder, name = os.path.split(path)
    folder = os.path.basename(folder) if name in _NO_FILES_OF_THEIR_OWN else ""
    return os.path.join(folder, name) or path
