"""A recording as a table on a terminal: in come shares, out go lines of text."""

import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from jitunwind.profile.recording import Counts, Kind, Origin
from jitunwind.profile.shares import Function, Shares
from jitunwind.wording import counted, printable, short_path

Paint = Callable[..., str]
"""Gives a text a style, as `click.style` does."""
_ROOM_FOR_NAMES = 16
_LONGEST_NAME = 200
_LEAST_ROWS = 3
"""That a screen has below its heading, or there is less of a heading."""


class _Column(NamedTuple):
    """`title` is as wide as the column. `part`: a function's weight in it, of all."""

    title: str
    part: Callable[[Function], int]


_TOTAL = _Column("  total", lambda each: each.total)
_OWN = _Column("    own", lambda each: each.own)
_KINDS = (
    _Column("  =   JIT", lambda each: each.kinds[Kind.JIT]),
    _Column("+ interp.", lambda each: each.kinds[Kind.PYTHON]),
    _Column("+     C", lambda each: each.in_c),
)
_WAITING = _Column("+ waiting", lambda each: each.kinds[Kind.WAITING])


def lines(
    shares: Shares, origin: Origin, counts: Counts, paint: Paint, width: int | None, most: int
) -> Iterator[str]:
    """`most`: functions that are listed. `width` in columns, None for no limit."""
    yield _cut(_command(origin), width)
    yield from _dim(_wrapped(summary(origin, counts, shares.weight), width), paint)
    yield ""
    yield from _wrapped_kinds(shares, "", width)
    yield ""
    listed = shares.by_own()
    yield from _rows(listed[:most], shares, None, paint, width)
    if len(listed) > most:
        yield paint(_cut(f"… and {counted(len(listed) - most, 'more function')}", width), dim=True)


def live_lines(
    now: Shares, whole: Shares, origin: Origin, counts: Counts, paint: Paint, width: int, height: int
) -> Iterator[str]:
    """As `lines`, of what has come `now`, since the table was drawn the last time, and on a screen of that size. The
    column `so far` has each function's own share of the `whole`."""
    command = [_cut(_command(origin), width)]
    said = _dim(_wrapped(summary(origin, counts, whole.weight), width), paint)
    recently = [*_wrapped_kinds(now, "now: ", width)]
    altogether = [*_wrapped_kinds(whole, "so far: ", width)]
    heads = (
        [*command, *said, "", *recently, *altogether, ""],
        [*command, *recently, *altogether],
        [*recently],
    )
    head = next((each for each in heads if len(each) + 1 + _LEAST_ROWS < height), recently[:1])
    room = max(height - len(head) - 2, 1)
    yield from head
    recent = now.by_own()
    seen = {(each.name, each.file, each.line) for each in recent}
    earlier = [each for each in whole.by_own() if (each.name, each.file, each.line) not in seen]
    rows = recent + [Function(each.name, each.file, each.line) for each in earlier]
    yield from _rows(rows[:room], now, whole, paint, width)


def summary(origin: Origin, counts: Counts, samples: int) -> str:
    """In one line, what was recorded and what was not."""
    seconds = max(origin.seconds, 1e-9)
    reached = (counts.moments - counts.missed) / seconds
    rates = f"{_rate(reached)} of {_rate(1 / origin.period)} Hz"
    said = [f"{counted(samples, 'sample')} in {origin.seconds:.1f} s, {rates}"]
    said += [f"each stop {1000 * counts.stopped / samples:.2f} ms"] if counts.stopped and samples else []
    said += [f"{counts.missed:,} missed"] if counts.missed else []
    said += [f"{counts.late:,} late"] if counts.late else []
    said += [f"{counts.lost:,} lost"] if counts.lost else []
    said += [f"{counts.queued:,} waiting for a processor"] if counts.queued else []
    said += [f"{counts.cut:,} not whole"] if counts.cut else []
    said += [f"{counts.unnamed:,} in JIT code without a name"] if counts.unnamed else []
    return ", ".join(said)


def _rate(hertz: float) -> str:
    return f"{hertz:.0f}" if hertz >= 10 else f"{hertz:.1f}".removesuffix(".0")


def kinds(shares: Shares) -> list[str]:
    """The shares of JIT code, the interpreter, C and what else there is, one a text."""
    found, whole = shares.kinds, shares.weight
    native = found[Kind.NATIVE] + found[Kind.KERNEL]
    said = [
        f"JIT code {share(found[Kind.JIT], whole)}",
        f"interpreter {share(found[Kind.PYTHON], whole)}",
        f"C {share(found[Kind.NATIVE], whole)}",
    ]
    said += [f"kernel {share(found[Kind.KERNEL], whole)}"] if found[Kind.KERNEL] else []
    said += [f"waiting {share(found[Kind.WAITING], whole)}"] if found[Kind.WAITING] else []
    return said + (
        [f"(of C, {share(shares.from_jit, native)} called by JIT code)"] if shares.from_jit else []
    )


def share(part: int, whole: int) -> str:
    """In percent; `-` of nothing."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def share_if_any(part: int, whole: int) -> str:
    """The same, and nothing where there is none."""
    return share(part, whole) if part and whole else ""


def _command(origin: Origin) -> str:
    return printable(origin.command) or f"process {origin.pid}"


# --- rows


def _rows(
    listed: Sequence[Function], shares: Shares, whole: Shares | None, paint: Paint, width: int | None
) -> Iterator[str]:
    """The heading, and a row for each function."""
    columns = _columns(shares, width)
    so_far = {(each.name, each.file, each.line): each.own for each in whole.by_own()} if whole else {}
    of = "function" if shares.has_python or (whole and whole.has_python) else "function of C"
    head = ("so far  " if whole else "") + "".join(f"{each.title} " for each in columns)
    yield paint(_cut(f"{head} {of}", width), bold=True)
    for each in listed:
        numbers = "".join(
            f"{share_if_any(column.part(each), shares.weight):>{len(column.title)}} " for column in columns
        )
        if whole:
            own = so_far.get((each.name, each.file, each.line), 0)
            numbers = f"{share_if_any(own, whole.weight):>6}  " + numbers
        yield _row(f"{numbers} ", each, paint, width)


def _columns(shares: Shares, width: int | None) -> list[_Column]:
    """Those for which there is room beside a name."""
    kinds = [*_KINDS, _WAITING] if shares.kinds[Kind.WAITING] else [*_KINDS] if shares.has_python else []
    for columns in ([_TOTAL, _OWN, *kinds], [_TOTAL, _OWN]):
        if width is None or sum(len(each.title) + 1 for each in columns) + _ROOM_FOR_NAMES <= width:
            return columns
    return [_OWN]


def _row(numbers: str, each: Function, paint: Paint, width: int | None) -> str:
    name = printable(each.name) + (f":{each.line}" if each.line is not None else "")
    place = f"  {printable(short_path(each.file))}" if each.file else ""
    room = max(width - len(numbers), 1) if width is not None else _LONGEST_NAME
    if len(name) + len(place) > room:
        place = ""
    style = {"fg": "green"} if each.own and 2 * each.from_jit > each.own else {}
    return f"{numbers}{paint(_cut(name, room), **style)}{paint(place, dim=True)}"


# --- widths


def _wrapped_kinds(shares: Shares, before: str, width: int | None) -> Iterator[str]:
    """The shares by kind, none of them cut in two."""
    line = before
    for number, part in enumerate(kinds(shares)):
        if not number:
            line += part
        elif width is not None and len(line) + 3 + len(part) > width:
            yield _cut(line, width)
            line = part
        else:
            line += f"   {part}"
    yield _cut(line, width)


def _wrapped(text: str, width: int | None) -> list[str]:
    return [text] if width is None else textwrap.wrap(text, max(width, 10))


def _dim(texts: Sequence[str], paint: Paint) -> list[str]:
    return [paint(text, dim=True) for text in texts]


def _cut(text: str, width: int | None) -> str:
    return text if width is None or len(text) <= width else text[: max(width - 1, 1)] + "…"
