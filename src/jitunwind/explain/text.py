"""Explanations on a terminal: the list of regions, or a region with all that the page shows of it.

In come `Listed` and `Explained` regions; out come lines, with click's styles in them (which `click.echo` takes
out again where nobody looks). All that is of the process's own making is made printable.
"""

from collections.abc import Iterator, Sequence

import click

from jitunwind.cli.output import printable
from jitunwind.explain.jumps import Jump
from jitunwind.explain.model import Answer, Block, Explained, Listed, Source, Summary
from jitunwind.explain.notation import Parts, defined, line

_TEXT = 44
_GAP = "  "


def regions_table(regions: Sequence[Listed]) -> Iterator[str]:
    """One line for each region."""
    yield click.style(f"{'number':>6}  {'address':<18} {'size':>8} {'micro-ops':>9}  name", bold=True)
    for each in regions:
        count = "?" if each.micro_ops is None else f"{each.micro_ops:,}"
        yield f"{each.number:>6}  {each.code.start:#018x} {each.code.size:>8,} {count:>9}  {printable(each.name)}"


def summary_lines(summary: Summary) -> Iterator[str]:
    """The figures, and where tables differ."""
    yield (
        f"{_count(summary.regions, 'region')}, {summary.micro_ops:,} micro-ops, "
        f"{summary.instructions:,} instructions, {summary.rows:,} rows; "
        f"without a row: {summary.unknown:,} instructions"
    )
    for name, found in summary.tables.items():
        shown = printable(name)
        if not found.compared:
            yield f"{shown}: nothing for this code"
            continue
        registers = ", ".join(f"{register} {count:,}" for register, count in found.registers.most_common())
        said = f"{shown}: differs at {found.differing:,} of {found.compared:,} instructions"
        said += f" ({registers})" if registers else ""
        said += f"; says nothing at {found.unknown:,}" if found.unknown else ""
        yield click.style(said, fg="red" if found.differing else "green")


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def region_lines(region: Explained) -> Iterator[str]:
    """The region: a heading for each Python line, one for each micro-op, then its instructions."""
    listed = region.listed
    yield click.style(f"region {listed.number}: {printable(listed.name)}", bold=True)
    yield f"{listed.code.size:,} bytes at {listed.code.start:#x}"
    if region.why:
        yield click.style(f"micro-ops are not told apart: {printable(region.why)}", fg="yellow")
    gutter = _Gutter(region.jumps)
    place: tuple[str, int] | None = None
    before: Answer | None = None
    for block in region.blocks:
        source = block.source
        if source is not None and (source.file, source.line) != place:
            place = (source.file, source.line)
            yield ""
            yield click.style(_source(source), fg="yellow")
        yield _title(block)
        for each in block.instructions:
            lines = gutter.at(each.offset)
            code = f"+{each.offset:<#7x} {printable(each.text):<{_TEXT}}"
            yield f"    {lines} {code} {_row(each.answer, before)}".rstrip()
            for name, found in each.answer.differences.items():
                if before is None or before.differences.get(name) != found:
                    yield f"    {' ' * len(lines)} " + click.style(
                        _difference(name, found.said, found.registers), fg="red"
                    )
            before = each.answer
        if block.skipped:
            yield click.style(
                f"    {block.skipped:,} bytes that no path reaches: constants, padding", dim=True
            )


def _source(source: Source) -> str:
    where = f"{source.file}:{source.line}"
    return printable(f"{where}  {source.text.strip()}" if source.text else where)


def _title(block: Block) -> str:
    bytecode = (
        f"bytecode {block.source.bytecode}" if block.source and block.source.bytecode is not None else ""
    )
    said = ", ".join(part for part in (block.detail, bytecode) if part)
    return "  " + click.style(block.title, fg="cyan") + (click.style(f"  {said}", dim=True) if said else "")


def _row(answer: Answer, before: Answer | None) -> str:
    """The row, what changed in it set apart; and which tables differ."""
    if not answer.row:
        return click.style(f"unknown: {printable(answer.reason)}", fg="magenta")
    old = before.row if before is not None else {}
    said = " ".join(
        click.style(f"{name}={rule}", bold=True) if old.get(name) != rule else f"{name}={rule}"
        for name, rule in defined(answer.row).items()
    )
    differing = (
        f"≠ {printable(name)}: {' '.join(found.registers)}" for name, found in answer.differences.items()
    )
    return _GAP.join([said, *(click.style(text, fg="red") for text in differing)])


def _difference(name: str, said: Parts, recovered: Parts) -> str:
    changed = ", ".join(f"{register}={said[register]} for {rule}" for register, rule in recovered.items())
    return f"≠ {printable(name)} says {line(said)}: {changed}"


class _Gutter:
    """The lines of jumps, drawn beside one instruction after the other."""

    def __init__(self, jumps: Sequence[Jump]) -> None:
        lanes: dict[tuple[int, int], list[int]] = {}
        for jump in jumps:
            if jump.lane is not None:
                lanes.setdefault((jump.lane, jump.target), []).append(jump.source)
        self._lines = [
            (lane, min(target, *sources), max(target, *sources), target, frozenset(sources))
            for (lane, target), sources in lanes.items()
        ]
        self._lines.sort(key=lambda line: line[1])
        self._width = max((line[0] for line in self._lines), default=-1) + 1
        self._next = 0
        self._open: list[tuple[int, int, int, int, frozenset[int]]] = []

    def at(self, offset: int) -> str:
        """What to print before the instruction at `offset`; offsets rise from call to call."""
        while self._next < len(self._lines) and self._lines[self._next][1] <= offset:
            self._open.append(self._lines[self._next])
            self._next += 1
        self._open = [line for line in self._open if line[2] >= offset]
        cells = [" "] * (self._width + 1)
        corner = 0
        for lane, first, last, target, sources in self._open:
            at = self._width - 1 - lane
            ends = offset == target or offset in sources
            if not ends:
                cells[at] = "│"
                continue
            cells[at] = "╭" if offset == first else "╰" if offset == last else "├"
            corner = max(corner, lane + 1)
        for lane in range(corner - 1):
            at = self._width - 1 - lane
            cells[at] = {" ": "─", "│": "┼"}.get(cells[at], cells[at])
        if corner:
            cells[-1] = "▶" if any(offset == line[3] for line in self._open) else "─"
        return "".join(cells)
