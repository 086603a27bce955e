"""Explanations on a terminal: the list of regions, or a region with all that the page shows of it.

In come `Listed` and `Explained` regions and how many columns there are; out come lines, with click's styles in them
(which `click.echo` takes out again where nobody looks). All that is of the process's own making is made printable.
Where there is no room for a row beside its instruction, it stands above the first one that it holds at.
"""

import os
import textwrap
from collections.abc import Iterator, Sequence

import click

from jitunwind.explain.differences import Difference
from jitunwind.explain.jumps import Jump
from jitunwind.explain.model import Answer, Block, Comparison, Explained, Instruction, Listed, Source, Summary
from jitunwind.explain.origin import Origin
from jitunwind.explain.words import (
    ROWS_SHOW,
    about_running,
    differing_everywhere,
    everywhere_pairs,
    name_and_place,
)
from jitunwind.notation import Parts, defined, line
from jitunwind.wording import counted, printable

UNBOUNDED = 1 << 20
"""Columns of what is no terminal."""
_UNREACHED = "no path reaches this"
_JOINS = "\xa0"
"""For a space at which no line is broken."""
_TEXT = 44
_OFFSET = 8
_INDENT = 4
_LEAST_NAME, _GOOD_NAME = 12, 24
"""Columns for a region's name: with fewer than the second, figures about it are left out."""


def heading(origin: Origin, width: int) -> Iterator[str]:
    """What is explained, and by what."""
    said = f"{origin.subject}, {origin.python}, jitunwind {origin.jitunwind}"
    yield from _dim(said, width)
    command = printable(origin.command)
    if len(command) > width:
        program, *others = command.split(" ")
        command = " ".join(_tail(word, width) for word in (os.path.basename(program), *others))
    if command:
        yield from _dim(command, width)


def regions_table(regions: Sequence[Listed], width: int) -> Iterator[str]:
    """One line for each region, and one that says which are running."""
    columns = {
        "#": [str(each.number) for each in regions],
        "address": [f"{each.code.start:#x}" for each in regions],
        "bytes": [f"{each.code.size:,}" for each in regions],
        "micro-ops": ["?" if each.micro_ops is None else f"{each.micro_ops:,}" for each in regions],
    }
    if any(each.threads for each in regions):
        columns[""] = ["runs" if each.threads else "" for each in regions]
    for left_out in ("", "micro-ops", "bytes"):
        columns.pop(left_out or "none", None)
        widths = [max(map(len, (head, *cells))) for head, cells in columns.items()]
        room = width - sum(widths) - 2 * len(widths)
        if room >= _GOOD_NAME:
            break
    heads, rows = list(columns), list(zip(*columns.values(), strict=True))
    columns_of = "".join(f"{{:>{width}}}  " for width in widths).format
    yield click.style(f"{columns_of(*heads)}name", bold=True)
    names = [_whole_name(each) for each in regions]
    if max(map(len, names), default=0) > room:
        room = max(room, _LEAST_NAME)
        longest = max(len(_short_name(each, UNBOUNDED).partition("  ")[0]) for each in regions)
        names = [_short_name(each, room, min(longest, room // 2)) for each in regions]
    for row, name in zip(rows, names, strict=True):
        yield columns_of(*row) + name
    if any(each.threads is not None for each in regions):
        yield ""
        yield from _dim(about_running(regions), width)


def _whole_name(region: Listed) -> str:
    """`py::f:/path/of.py:12`: its name, and the line that it begins with."""
    if region.begin is None:
        return printable(region.name)
    file, number = region.begin
    is_own = region.name.endswith(f":{file}")
    return printable(f"{region.name}:{number}" if is_own else f"{region.name}  {file}:{number}")


def _short_name(region: Listed, room: int, least: int = 0) -> str:
    """`py::f  of.py:12`, in so many columns; the file stands behind `least` of them."""
    name, where = name_and_place(region)
    name, where = printable(name), printable(os.path.basename(where))
    if not where or room < _LEAST_NAME + len(where) + 2:
        return _cut(f"{name}  {where}" if where else name, room)
    return f"{_cut(name, room - len(where) - 2):<{min(least, room - len(where) - 2)}}  {where}"


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[: room - 1]}…"


def _tail(path: str, room: int) -> str:
    """The path, or as many of its last parts as there is room for: never cut inside a part, but the last one."""
    if len(path) <= room:
        return path
    parts = path.split("/")
    for first in range(1, len(parts)):
        shown = "/".join(["…", *parts[first:]])
        if len(shown) <= room:
            return shown
    return f"…{parts[-1][1 - room :]}"


def _dim(text: str, width: int, indent: int = 0) -> Iterator[str]:
    for each in _wrapped(text, width, indent):
        yield click.style(each, dim=True)


def _wrapped(text: str, width: int, indent: int = 0) -> list[str]:
    """In lines of at most so many columns, those behind the first one indented; a path is broken only where it is
    longer than a line."""
    if len(text) <= width:
        return [text]
    return textwrap.wrap(
        text, max(width, indent + _LEAST_NAME), subsequent_indent=" " * indent, break_on_hyphens=False
    )


def summary_lines(summary: Summary, width: int) -> Iterator[str]:
    """The figures, and where tables differ."""
    said = f"{counted(summary.regions, 'region')}, {counted(summary.micro_ops, 'micro-op')}, "
    said += f"{counted(summary.instructions, 'instruction')}, {counted(summary.rows, 'row')}"
    said += f"; without a row: {counted(summary.unknown, 'instruction')}" if summary.unknown else ""
    said += f"; {summary.unreached:,} more that no path reaches" if summary.unreached else ""
    yield from _wrapped(said, width, 2)
    for name, found in summary.tables.items():
        shown = printable(name)
        if not found.compared:
            yield from _wrapped(f"{shown}: nothing for this code", width, 2)
            continue
        colour = "red" if found.differing else "green"
        for each in _wrapped(f"{shown}: {_compared(found)}", width, 2):
            yield click.style(each, fg=colour)
        if found.everywhere:
            pairs = ", ".join(each.replace(" ", _JOINS) for each in everywhere_pairs(found))
            for each in _wrapped(f"{pairs}. {ROWS_SHOW}", width - 2):
                yield click.style(f"  {each.replace(_JOINS, ' ')}", fg=colour)


def _compared(found: Comparison) -> str:
    registers = ", ".join(
        f"{register} {count:,}"
        for register, count in found.registers.most_common()
        if register not in found.everywhere
    )
    if not found.differing:
        said = f"says the same at {counted(found.compared, 'instruction')}"
    elif found.everywhere:
        said = differing_everywhere(found)
        said += f"; also {registers}" if registers else ""
    else:
        said = f"differs at {found.differing:,} of {counted(found.compared, 'instruction')} ({registers})"
    return said + (f"; says nothing at {found.unknown:,}" if found.unknown else "")


def region_lines(region: Explained, summary: Summary, width: int = UNBOUNDED) -> Iterator[str]:
    """The region: a heading for each Python line, one for each micro-op, then its instructions."""
    yield from _about(region, width)
    writer = _Writer(region, summary, width)
    place: tuple[str, int] | None = None
    for block in region.blocks:
        source = block.source
        if source is not None and (source.file, source.line) != place:
            place = (source.file, source.line)
            yield ""
            for each in _source(source, width):
                yield click.style(each, fg="yellow")
        yield from _title(block, width)
        for instruction in block.instructions:
            yield from writer.instruction(instruction)
        if block.skipped:
            said = f"{block.skipped:,} bytes that no path reaches: constants, padding"
            yield from _dim(f"{' ' * _INDENT}{said}", width, _INDENT)


def _about(region: Explained, width: int) -> Iterator[str]:
    listed = region.listed
    number = f"region {listed.number}: "
    name = _whole_name(listed)
    if len(number) + len(name) > width:
        name = _short_name(listed, width - len(number))
    yield click.style(f"{number}{name}", bold=True)
    threads = ", ".join(map(str, listed.threads or ()))
    said = f"{listed.code.size:,} bytes at {listed.code.start:#x}"
    yield from _wrapped(f"{said}; running now in thread {threads}" if threads else said, width, 2)
    if region.why:
        for each in _wrapped(f"micro-ops are not told apart: {printable(region.why)}", width, 2):
            yield click.style(each, fg="yellow")


def _source(source: Source, width: int) -> list[str]:
    where = printable(f"{source.file}:{source.line}")
    text = printable(source.text.strip()) if source.text else ""
    if len(where) + 2 + len(text) <= width:
        return [f"{where}  {text}" if text else where]
    short = printable(f"{os.path.basename(source.file)}:{source.line}")
    if len(short) + 2 + len(text) <= width:
        return [f"{short}  {text}"]
    return [_tail(where, width), *(f"  {each}" for each in _wrapped(text, width - 2, 2))]


def _title(block: Block, width: int) -> Iterator[str]:
    bytecode = (
        f"bytecode {block.source.bytecode}" if block.source and block.source.bytecode is not None else ""
    )
    said = ", ".join(part for part in (block.detail, bytecode) if part)
    title = "  " + click.style(block.title, fg="cyan")
    if 4 + len(block.title) + len(said) <= width:
        yield title + (click.style(f"  {said}", dim=True) if said else "")
        return
    yield title
    for each in _wrapped(said, width - _INDENT):
        yield click.style(f"{' ' * _INDENT}{each}", dim=True)


class _Writer:
    """Writes the instructions of one region, one after the other."""

    def __init__(self, region: Explained, summary: Summary, width: int) -> None:
        self._gutter = _Gutter(region.jumps)
        self._summary, self._width = summary, width
        self._before: Answer | None = None
        self._differed: dict[str, Difference] = {}
        self._said: object = None
        self._left = _INDENT + self._gutter.width + 1 + _OFFSET + 1
        """Columns before the text of an instruction."""
        answers = {id(each.answer): each.answer for each in region.instructions}
        longest = max((len(click.unstyle(self._row(each))) for each in answers.values()), default=0)
        self._beside = self._left + _TEXT + 2 + longest <= width
        """Whether rows stand beside instructions."""

    def instruction(self, each: Instruction) -> Iterator[str]:
        answer = each.answer
        above = self._gutter.between()
        lines = self._gutter.at(each.offset)
        differing = self._summary.beyond(answer)
        begin = f"{' ' * _INDENT}{lines} +{each.offset:<#{_OFFSET - 1}x} "
        text = printable(each.text)
        if self._beside:
            row = self._row(answer)
            has_room = self._left + max(len(text), _TEXT) + 1 + len(click.unstyle(row)) <= self._width
            first, *more = [text] if has_room else self._text(text, _TEXT)
            yield f"{begin}{first:<{_TEXT}} {row}".rstrip()
        else:
            if self._said != (said := (answer.row, answer.reason, differing)):
                yield from self._row_above(above, answer)
                self._said = said
            first, *more = self._text(text, self._width - self._left)
            yield f"{begin}{first}".rstrip()
        for part in more:
            yield f"{' ' * _INDENT}{self._gutter.between()}{' ' * (_OFFSET + 2)}{part}"
        indent = _INDENT + self._gutter.width + 1
        for name, found in differing.items():
            if self._differed.get(name) != found:
                for part in _wrapped(_difference(name, found), self._width - indent, 2):
                    yield f"{' ' * _INDENT}{self._gutter.between()} {click.style(part, fg='red')}"
        self._differed = differing
        self._before = answer

    def _row_above(self, lines: str, answer: Answer) -> Iterator[str]:
        room = self._width - self._left
        parts, used = list[str](), 0
        for part in self._parts(answer):
            size = len(click.unstyle(part)) + 1
            if used + size > room and parts:
                yield f"{' ' * _INDENT}{lines}{' ' * (_OFFSET + 2)}{' '.join(parts)}"
                parts, used = [], 0
            parts.append(part)
            used += size
        yield f"{' ' * _INDENT}{lines}{' ' * (_OFFSET + 2)}{' '.join(parts)}"

    def _text(self, text: str, room: int) -> list[str]:
        """An instruction in so many columns; the name of what it calls is the first to go into a line of its own."""
        if len(text) <= room:
            return [text]
        code, _, name = text.partition(" <")
        return [*_wrapped(code, room, 2), *([_cut(f"  <{name}", room)] if name else [])]

    def _row(self, answer: Answer) -> str:
        """The row, what changed in it set apart; and which tables differ."""
        return " ".join(self._parts(answer))

    def _parts(self, answer: Answer) -> Iterator[str]:
        if not answer.reached:
            yield from (click.style(word, dim=True) for word in _UNREACHED.split())
            return
        if not answer.row:
            said = f"unknown: {printable(answer.reason)}"
            yield from (click.style(word, fg="magenta") for word in said.split())
            return
        old = self._before.row if self._before is not None else {}
        for name, rule in defined(answer.row).items():
            yield click.style(f"{name}={rule}", bold=True) if old.get(name) != rule else f"{name}={rule}"
        for name, found in self._summary.beyond(answer).items():
            yield click.style(f" ≠ {printable(name)}: {' '.join(found.registers)}", fg="red")


def _difference(name: str, found: Difference) -> str:
    said: Parts = found.said
    changed = ", ".join(
        f"{register}={said[register]} for {rule}" for register, rule in found.registers.items()
    )
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
        self.width = self._width + 1
        self._next, self._at = 0, -1
        self._open: list[tuple[int, int, int, int, frozenset[int]]] = []

    def between(self) -> str:
        """The same for a line that is no instruction's, behind the one that `at` was asked for."""
        cells = [" "] * self.width
        for lane, _, last, _, _ in self._open:
            if last > self._at:
                cells[self._width - 1 - lane] = "│"
        return "".join(cells)

    def at(self, offset: int) -> str:
        """What to print before the instruction at `offset`; offsets rise from call to call."""
        self._at = offset
        while self._next < len(self._lines) and self._lines[self._next][1] <= offset:
            self._open.append(self._lines[self._next])
            self._next += 1
        self._open = [line for line in self._open if line[2] >= offset]
        cells = [" "] * self.width
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
