"""The page that `bt` prints: in comes what `bt --json` has, out go lines of text."""

import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from jitunwind.errors import NotPython
from jitunwind.wording import printable, short_path

Paint = Callable[..., str]
"""Gives a text a style, as `terminal.style` does."""
_STYLES: dict[str, dict[str, Any]] = {
    "jit": {"fg": "green", "bold": True},
    "shim": {"fg": "green"},
    "python": {"fg": "cyan"},
    "native": {"bold": True},
}
_Piece = tuple[str, dict[str, Any]]
"""A text, and its style."""
_DIM: dict[str, Any] = {"dim": True}
_KIND = 7
"""Columns of a frame's kind."""
_LEAST_INDENT = 4
_FEWEST = 8
"""Columns below which nothing is cut: a terminal that narrow wraps."""
_MARKS = {None: "", False: "  ", True: "* "}
"""By whether a frame has changed since the last look: None where there was none."""
_FAULTS = {("SIGSEGV", 1): "nothing is mapped there", ("SIGSEGV", 2): "that access is not allowed there"}
"""By name and si_code: SEGV_MAPERR and SEGV_ACCERR (sigaction(2))."""


class Form(NamedTuple):
    """How to print: `width` in columns, None for no limit; whether to print whole paths."""

    paint: Paint
    width: int | None
    full_paths: bool


def lines(stacks: dict[str, Any], form: Form) -> Iterator[str]:
    """The header, and each thread with its frames."""
    yield from _header(stacks, form)
    for thread in stacks["threads"]:
        yield ""
        yield _thread(thread, form)
        digits = len(str(len(thread["frames"])))
        for frame in thread["frames"]:
            yield from _frame(frame, digits, form)
        if not thread["frames"] and thread.get("reason") == "":
            yield form.paint("  (no frames of that kind)", **_DIM)
        if thread.get("reason"):
            yield from (form.paint(line, fg="red") for line in wrapped(f"  … {thread['reason']}", form))


def _header(stacks: dict[str, Any], form: Form) -> Iterator[str]:
    what = f"Core {stacks['core']}" if stacks["core"] else f"Process {stacks['pid']}"
    yield from wrapped(f"{what}: {stacks['command']}" if stacks["command"] else what, form)
    where = f" ({stacks['executable']})" if stacks["executable"] else ""
    jit = {True: ", JIT on", False: ", JIT off", None: ""}[stacks["jit"]]
    yield from wrapped(f"{_python(stacks)}{jit}{where}", form)
    if stacks["signal"]:
        yield from wrapped(_signal(stacks["signal"]), form)


def _python(stacks: dict[str, Any]) -> str:
    if stacks["python"]:
        return f"CPython {stacks['python']}"
    if stacks["others"]:
        return f"JIT code known by {stacks['others']}"
    return "No Python" if stacks["problem_kind"] == NotPython.__name__ else "No CPython that is known"


def _signal(signal: dict[str, Any]) -> str:
    about = ""
    if signal["address"] is not None:
        about = f" at address {signal['address']}"
        fault = _FAULTS.get((signal["name"], signal["code"]))
        about += f" ({fault})" if fault else ""
    elif signal["sender"]:
        about = f", sent by process {signal['sender']}"
    return f"Signal {signal['name']} in thread {signal['tid']}{about}"


def _thread(thread: dict[str, Any], form: Form) -> str:
    """`Thread 4144 (active, holds the GIL): "python3.14"`, as far as it is known."""
    state = [thread["state"]] if thread["state"] else []
    state += ["holds the GIL"] if thread["gil"] else []
    text = f"Thread {form.paint(str(thread['tid']), bold=True)}"
    text += f" ({', '.join(state)})" if state else ""
    return text + (f': "{printable(thread["name"])}"' if thread["name"] else "")


def _frame(frame: dict[str, Any], digits: int, form: Form) -> Iterator[str]:
    """One line; what does not fit in it has lines of its own, farther to the left where it is long."""
    kind, paint = frame["kind"], form.paint
    address = " " * 18 if kind == "python" else f"{int(frame['pc'], 16):#018x}"
    begin = f"{_MARKS[frame.get('changed')]}#{frame['index']:<{digits}} {address} "
    indent = len(begin) + _KIND
    most = sys.maxsize if form.width is None else form.width
    label = shortened(_label(frame), max(most - indent, _FEWEST))
    line = paint(begin, dim=True) + paint(f"{kind:<{_KIND}}{label}", **_STYLES[kind])
    length = indent + len(label)
    for text, style in (*_place(frame, form), *_note(frame)):
        if length + 2 + len(text) <= most:
            line += "  " + paint(text, **style)
            length += 2 + len(text)
        else:
            yield line
            column = max(min(indent, most - len(text)), _LEAST_INDENT)
            text = shortened(text, max(most - column, _FEWEST))
            line = " " * column + paint(text, **style)
            length = column + len(text)
    yield line


def _label(frame: dict[str, Any]) -> str:
    """What runs there, without the path that its symbol in GDB has."""
    if frame["function"] is not None:
        return printable(frame["function"])
    name = printable(frame["name"])
    return name.removeprefix("py::").removesuffix(":<jit>") if frame["kind"] in ("jit", "shim") else name


def _place(frame: dict[str, Any], form: Form) -> list[_Piece]:
    """The file and line, if they are known."""
    if frame["file"] is None:
        return []
    path = printable(frame["file"])
    if not form.full_paths:
        path = short_path(path)
    return [(f"{path}:{frame['line']}", _DIM if frame["kind"] == "native" else {"fg": "yellow"})]


def _note(frame: dict[str, Any]) -> list[_Piece]:
    """In which trace another function than its own runs; whether the frame was guessed."""
    if frame.get("exact") is False:
        return [("(guessed by the frame pointer)", _DIM)]
    trace = frame["trace"]
    if trace is None or trace == frame["function"]:
        return []
    return [(f"({'inlined in' if frame['inlined'] else 'in a trace of'} {printable(trace)})", _DIM)]


def shortened(text: str, room: int) -> str:
    """`text` in `room` columns: without a part of its middle, where it is longer. The end is what tells most."""
    if len(text) <= room:
        return text
    head = (room - 1) // 3
    return f"{text[:head]}…{text[len(text) - (room - 1 - head) :]}"


def wrapped(text: str, form: Form) -> list[str]:
    """`text` in lines of the width there is, broken at spaces only; none, where it is empty."""
    text = printable(text)
    if form.width is None or len(text) <= form.width:
        return [text] if text else []
    room = max(form.width - 2, _FEWEST)
    words = " ".join(shortened(word, room) for word in text.split())
    import textwrap  # only terminals are narrow

    return textwrap.wrap(
        words, form.width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
