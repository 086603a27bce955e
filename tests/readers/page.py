"""The tables of docs/readers.md, of whatever says what is in a cell: the readers themselves, or what is recorded."""

from collections.abc import Callable, Iterable
from itertools import groupby

from tests.readers.cases import CASES
from tests.readers.readers import READERS, Reader
from tests.readers.recorded import TOLERATED, portable

Cell = Callable[[str, str, str], str]
"""By a case's name, a reader's and its version's."""


def table(cell: Cell) -> str:
    """Cases by readers, a table for each group."""
    out = []
    for group, cases in groupby(CASES, lambda case: case.group):
        heads = [f"{reader.name} {', '.join(reader.versions)}".strip() for reader in READERS]
        out += [f"### {group}", "", _row(["", *heads]), _row(["---"] * (len(READERS) + 1))]
        out += [_row([case.name, *(_cell(cell, case.name, reader) for reader in READERS)]) for case in cases]
        out.append("")
    return "\n".join(out)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: Cell, case: str, reader: Reader) -> str:
    said = {version: cell(case, reader.name, version) for version in reader.versions}
    if len(set(said.values())) == 1:
        return next(iter(said.values()))
    return "; ".join(f"{version}: {words}" for version, words in said.items())


def lists() -> str:
    """What may be written, by what is recorded."""
    names = sorted(
        portable() - {case.shows for case in CASES if case.name.startswith("jitunwind")}, key=str.lower
    )
    quoted = ", ".join(f"`{name}`" for name in names)
    others = [f"- {name}: {reason}." for name, reason in TOLERATED.items()]
    return "\n".join(
        [
            f"Every reader does these as the standard says, in each case that shows them: {quoted}.",
            "",
            "jitunwind writes these too, though readers differ:",
            "",
            *others,
            "",
        ]
    )
