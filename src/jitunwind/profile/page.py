"""A recording as one HTML page that needs nothing else: an interactive flame graph. Or the difference of two.

In come recordings, out comes the page's text. The tree of calls is JSON in the page, which its script (`page.js`) lays
out. Names are of the process's own making: what does not print is escaped, JSON has no `<`, the script sets text and
never markup, and the page's own policy forbids it to load anything.
"""

import html
import json
import os
import platform
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from importlib.resources import files
from string import Template
from typing import Any

from jitunwind.profile.recording import Frame, Kind, Recording
from jitunwind.profile.shares import Function, Shares
from jitunwind.profile.table import kinds, share, share_if_any, summary
from jitunwind.profile.tree import Tree
from jitunwind.profile.trust import doubts, error
from jitunwind.wording import counted, printable

_KINDS = list(Kind)
_MOST_FUNCTIONS = 100
_MOST_THREADS = 100
_MOST_REASONS = 5
_COLUMNS = ("total", "own", "= in JIT code", "+ interpreter", "+ C")
_COMPARED_COLUMNS = ("own before", "own after", "in JIT code before", "after")
_NO_SAMPLES = "This recording has no sample. Threads that wait are recorded with --idle."


def write(recording: Recording, with_lines: bool) -> str:
    """The page of one recording."""
    shares = Shares(with_lines)
    shares.add(recording)
    warnings = list(doubts(recording.origin, recording.counts, len(recording)))
    if not len(recording):
        warnings.append(_NO_SAMPLES)
    title = recording.origin.command or f"process {recording.origin.pid}"
    said = [("command line", title), *_origin(recording)]
    return _page(title, said, warnings, [recording], with_lines, _functions(shares))


def _origin(recording: Recording) -> Iterator[tuple[str, str]]:
    """What the page says of the recording."""
    origin, counts, samples = recording.origin, recording.counts, len(recording)
    python = f"CPython {origin.python}" if origin.python else "no CPython that is known"
    jit = {True: ", JIT on", False: ", JIT off", None: ""}[origin.jit]
    yield "what", f"process {origin.pid}, {python}{jit}"
    yield "samples", summary(origin, counts, samples)
    if samples:
        yield "error", f"19 times of 20, a share is right to {error(samples):.1f} points or better"
    for reason, count in counts.reasons.most_common(_MOST_REASONS):
        yield "not whole", f"{counted(count, 'stack')}: {reason}"
    when = datetime.fromtimestamp(origin.began).astimezone().isoformat(" ", "seconds")
    yield "made by", f"{origin.by}, on {platform.node()}, {when}"


def difference(before: Recording, after: Recording) -> str:
    """The page that compares two: as wide as what is called after, coloured by what has changed. A function is the same
    in JIT code and in the interpreter."""
    recordings = [before, after]
    shares = [Shares(), Shares()]
    for each, recording in zip(shares, recordings, strict=True):
        each.add(recording)
    said = [
        (
            name,
            f"{recording.origin.command}: {counted(recording.weight, 'sample')} · {' · '.join(kinds(each))}",
        )
        for name, recording, each in zip(("before", "after"), recordings, shares, strict=True)
    ]
    title = f"{before.origin.command} and {after.origin.command}"
    return _page(title, said, [], recordings, True, _compared(*shares))


def _page(
    title: str,
    said: Sequence[tuple[str, str]],
    warnings: Sequence[str],
    recordings: Sequence[Recording],
    with_lines: bool,
    functions: str,
) -> str:
    assets = files("jitunwind.profile")
    tree = Tree(recordings, with_lines)
    names, places = _threads(recordings[0])
    data = {
        "kinds": [str(kind) for kind in _KINDS],
        "frames": [_frame(frame) for frame in tree.frames],
        "depths": list(tree.depths),
        "frameOf": list(tree.frame_of),
        "own": [list(own) for own in tree.own],
        "threads": names if tree.threads else [],
        "threadOwn": [[node, places[thread], weight] for node, thread, weight in tree.threads],
        "period": _period(recordings[-1]),
        "folded": tree.folded,
    }
    return Template(assets.joinpath("page.html").read_text("utf-8")).substitute(
        title=_text(title),
        style=assets.joinpath("page.css").read_text("utf-8"),
        script=assets.joinpath("page.js").read_text("utf-8"),
        origin="".join(f"<div><dt>{name}</dt><dd>{_text(text)}</dd></div>" for name, text in said),
        summary="".join(f"<p>{_text(f'{name}: {text}')}</p>" for name, text in said)
        if len(recordings) > 1
        else f"<p>{_text(summary(recordings[0].origin, recordings[0].counts, len(recordings[0])))}</p>",
        warnings="".join(f'<p class="warning">{_text(text[0].upper() + text[1:])}</p>' for text in warnings),
        difference="1" if len(recordings) > 1 else "",
        functions=functions,
        data=json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
    )


def _period(recording: Recording) -> float:
    """Seconds that a sample stands for: more than the sampler's period, where moments were missed."""
    taken = recording.counts.moments - recording.counts.missed
    return recording.origin.seconds / taken if taken > 0 else recording.origin.period


def _text(text: str) -> str:
    """As HTML, with what does not print, or turns the direction of writing, made visible."""
    return html.escape(printable(text))


def _frame(frame: Frame) -> list[Any]:
    place = frame.file or frame.module
    return [printable(frame.name), _KINDS.index(frame.kind), place and printable(place), frame.line]


def _threads(recording: Recording) -> tuple[list[str], list[int]]:
    """The names of the threads that the page tells apart, those with the most samples first, and of each thread of the
    recording which one it is of these: the last stands for all beyond a number."""
    weights: Counter[int] = Counter()
    for (_, thread), weight in recording.weights_of_threads().items():
        weights[thread] += weight
    order = sorted(range(len(recording.threads)), key=lambda thread: -weights[thread])
    places = [0] * len(order)
    for place, thread in enumerate(order):
        places[thread] = min(place, _MOST_THREADS)
    names = [
        f"{printable(recording.threads[thread].name)} ({recording.threads[thread].tid})"
        for thread in order[:_MOST_THREADS]
    ]
    more = len(order) - _MOST_THREADS
    return names + ([counted(more, "other thread")] if more > 0 else []), places


# --- the tables of functions


def _functions(shares: Shares) -> str:
    """How each function ran."""
    has_waiting = bool(shares.kinds[Kind.WAITING])
    shown = 5 if shares.has_python else 2
    rows = []
    for each in shares.by_own()[:_MOST_FUNCTIONS]:
        parts = [each.total, each.own, each.kinds[Kind.JIT], each.kinds[Kind.PYTHON], each.in_c][:shown]
        parts += [each.kinds[Kind.WAITING]] if has_waiting else []
        rows.append(_row([share_if_any(part, shares.weight) for part in parts], each))
    return _table([*_COLUMNS[:shown], *(["+ waiting"] if has_waiting else [])], rows)


def _compared(before: Shares, after: Shares) -> str:
    """How much of the time each function took before and after, and how much of that in JIT code."""
    known = {(each.name, each.file): each for each in before.by_own()}
    listed = after.by_own()
    listed += [each for key, each in known.items() if key not in {(one.name, one.file) for one in listed}]
    rows = []
    for each in listed[:_MOST_FUNCTIONS]:
        one = known.get((each.name, each.file), Function(each.name, each.file))
        other = each if each is not one else Function(each.name, each.file)
        parts = [
            share_if_any(one.own, before.weight),
            share_if_any(other.own, after.weight),
            share(one.from_jit, one.own),
            share(other.from_jit, other.own),
        ]
        rows.append(_row(parts, each))
    return _table(_COMPARED_COLUMNS, rows)


def _table(columns: Sequence[str], rows: Sequence[str]) -> str:
    heads = "".join(f'<th scope="col">{column}</th>' for column in columns)
    names = "".join(f'<th scope="col" class="name">{column}</th>' for column in ("function", "file"))
    return f"<thead><tr>{heads}{names}</tr></thead><tbody>{''.join(rows)}</tbody>"


def _row(numbers: Sequence[str], each: Function) -> str:
    cells = "".join(f"<td>{number}</td>" for number in numbers)
    name = each.name if each.line is None else f"{each.name}:{each.line}"
    place, file = _text(os.path.basename(each.file or "")), _text(each.file or "")
    return f'<tr>{cells}<td class="name">{_text(name)}</td><td class="name" title="{file}">{place}</td></tr>'
