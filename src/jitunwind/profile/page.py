"""A recording as one HTML page that needs nothing else: an interactive flame graph. Or the difference of two.

In come recordings, out comes the page's text. The tree of calls is JSON in the page, which its script (`page.js`) lays
out. Names are of the process's own making: JSON has no `<`, the script sets text and never markup, and the page's own
policy forbids it to load anything.
"""

import html
import json
import os
import platform
from collections.abc import Sequence
from datetime import datetime
from importlib.resources import files
from string import Template
from typing import Any

from jitunwind.profile.recording import Frame, Kind, Recording
from jitunwind.profile.shares import Shares
from jitunwind.profile.table import summary
from jitunwind.profile.tree import Tree

_KINDS = list(Kind)
_MOST_FUNCTIONS = 100


def write(recording: Recording, with_lines: bool) -> str:
    """The page of one recording."""
    origin = recording.origin
    python = f"CPython {origin.python}" if origin.python else "no CPython that is known"
    jit = {True: ", JIT on", False: ", JIT off", None: ""}[origin.jit]
    when = datetime.fromtimestamp(origin.began).astimezone().isoformat(" ", "seconds")
    said = [
        ("command line", origin.command or f"process {origin.pid}"),
        ("what", f"process {origin.pid}, {python}{jit}"),
        ("samples", summary(origin, recording.counts, len(recording))),
        ("made by", f"{origin.by}, on {platform.node()}, {when}"),
    ]
    return _page(origin.command or f"process {origin.pid}", said, [recording], with_lines)


def difference(before: Recording, after: Recording) -> str:
    """The page that compares two: as wide as what is called after, coloured by what has changed."""
    said = [
        (name, f"{each.origin.command}, weight {each.weight:,}")
        for name, each in (("before", before), ("after", after))
    ]
    title = f"{before.origin.command} and {after.origin.command}"
    return _page(title, said, [before, after], with_lines=True)


def _page(
    title: str, said: Sequence[tuple[str, str]], recordings: Sequence[Recording], with_lines: bool
) -> str:
    assets = files("jitunwind.profile")
    tree = Tree(recordings, with_lines)
    data = {
        "kinds": [str(kind) for kind in _KINDS],
        "frames": [_frame(frame) for frame in tree.frames],
        "depths": list(tree.depths),
        "frameOf": list(tree.frame_of),
        "own": [list(own) for own in tree.own],
        "period": recordings[-1].origin.period if len(recordings) == 1 else 0,
        "folded": tree.folded,
    }
    return Template(assets.joinpath("page.html").read_text("utf-8")).substitute(
        title=html.escape(title),
        style=assets.joinpath("page.css").read_text("utf-8"),
        script=assets.joinpath("page.js").read_text("utf-8"),
        origin="".join(f"<div><dt>{a}</dt><dd>{html.escape(b)}</dd></div>" for a, b in said),
        difference="1" if len(recordings) > 1 else "",
        functions="".join(_functions(recordings[-1])),
        data=json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
    )


def _frame(frame: Frame) -> list[Any]:
    return [frame.name, _KINDS.index(frame.kind), frame.file or frame.module, frame.line]


def _functions(recording: Recording) -> list[str]:
    """The rows of the table of Python functions."""
    shares = Shares()
    shares.add(recording)
    rows = []
    for each in shares.by_own()[:_MOST_FUNCTIONS]:
        numbers = (
            (each.total, shares.weight),
            (each.own, shares.weight),
            (each.jit, each.own),
            (each.native, each.own),
        )
        cells = "".join(f"<td>{_share(part, whole)}</td>" for part, whole in numbers)
        place = html.escape(os.path.basename(each.file or ""))
        rows.append(
            f'<tr>{cells}<td class="name">{html.escape(each.name)}</td>'
            f'<td class="name" title="{html.escape(each.file or "")}">{place}</td></tr>'
        )
    return rows


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else ""
