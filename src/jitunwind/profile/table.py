"""A recording as a table on a terminal: in come shares, out go lines of text."""

from collections.abc import Callable, Iterator

from jitunwind.profile.labels import short
from jitunwind.profile.recording import Counts, Kind, Origin
from jitunwind.profile.shares import Function, Shares
from jitunwind.wording import counted, printable

Paint = Callable[..., str]
"""Gives a text a style, as `click.style` does."""
_HEAD = "  total     own  JIT code    in C  function"
_NARROWEST = 20
_NOT_SEEN = (
    "how often traces were left is not seen: CPython counts that in builds with --enable-pystats alone"
)


def lines(
    shares: Shares, origin: Origin, counts: Counts, paint: Paint, width: int | None, most: int
) -> Iterator[str]:
    """`most`: functions that are listed. `width` in columns, None for no limit."""
    yield _cut(f"{printable(origin.command) or f'process {origin.pid}'}", width)
    yield paint(_cut(summary(origin, counts, shares.weight), width), dim=True)
    yield ""
    yield _cut(_kinds(shares), width)
    yield ""
    yield paint(_cut(_HEAD, width), bold=True)
    listed = shares.by_own()
    for each in listed[:most]:
        yield _function(each, shares.weight, paint, width)
    if len(listed) > most:
        yield paint(f"… and {counted(len(listed) - most, 'more function')}", dim=True)
    yield ""
    yield paint(_cut(_NOT_SEEN, width), dim=True)


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


def _kinds(shares: Shares) -> str:
    kinds, whole = shares.kinds, shares.weight
    native = kinds[Kind.NATIVE] + kinds[Kind.KERNEL]
    said = [
        f"JIT code {_share(kinds[Kind.JIT], whole)}",
        f"interpreter {_share(kinds[Kind.PYTHON], whole)}",
        f"C {_share(kinds[Kind.NATIVE], whole)}",
    ]
    said += [f"kernel {_share(kinds[Kind.KERNEL], whole)}"] if kinds[Kind.KERNEL] else []
    if native:
        said.append(f"(of C, {_share(shares.from_jit, native)} called by JIT code)")
    return "   ".join(said)


def _function(each: Function, whole: int, paint: Paint, width: int | None) -> str:
    numbers = (
        f"{_share(each.total, whole):>7} {_share(each.own, whole):>7}"
        f"   {_share(each.jit, each.own):>7} {_share(each.native, each.own):>7}  "
    )
    place = f"  {printable(short(each.file))}" if each.file else ""
    name = printable(each.name)
    if width is not None and width - len(numbers) < len(name) + len(place):
        room = max(width - len(numbers), _NARROWEST)
        place = "" if len(name) + len(place) > room else place
        name = _cut(name, room)
    style = {"fg": "green"} if each.own and 2 * each.jit > each.own else {}
    return f"{numbers}{paint(name, **style)}{paint(place, dim=True)}"


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def _cut(text: str, width: int | None) -> str:
    return text if width is None or len(text) <= width else text[: max(width - 1, 1)] + "…"
