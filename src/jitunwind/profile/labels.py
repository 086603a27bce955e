"""What a frame is called in one line, and back: as collapsed stacks and tables have it.

`f (hot.py)_[j]` is a Python function in JIT code, `f (hot.py)` one that the interpreter runs, `write_[k]` a function of
the kernel, `[waiting]` the mark of a thread that did not run; all else is native. The marks in brackets behind a name
are those that Brendan Gregg's flame graph tools know.
"""

import re

from jitunwind.profile.recording import Frame, Kind
from jitunwind.wording import printable, short_path

_MARKS = {Kind.JIT: "_[j]", Kind.KERNEL: "_[k]"}
WAITING, STOPPED, QUEUED = "[waiting]", "[stopped]", "[waiting for a processor]"
"""The marks of a thread that waits, of one that a signal or a tracer has stopped, and of one that could run and has no
processor."""
_PLACED = re.compile(r"(?P<name>.+) \((?P<file>[^()]*?)(?::(?P<line>\d+))?\)")


def label(frame: Frame, with_line: bool = False) -> str:
    """The frame in one line, which has no semicolon and no control characters."""
    text = printable(frame.name).replace(";", ":")
    if frame.file is not None:
        line = f":{frame.line}" if with_line and frame.line is not None else ""
        text += f" ({printable(short_path(frame.file)).replace(';', ':')}{line})"
    return text + _MARKS.get(frame.kind, "")


def frame_of(text: str) -> Frame:
    """The frame of which `label` made this."""
    if text in (WAITING, STOPPED, QUEUED):
        return Frame(Kind.WAITING, text)
    kind = next((kind for kind, mark in _MARKS.items() if text.endswith(mark)), None)
    plain = text.removesuffix(_MARKS[kind]) if kind is not None else text
    found = _PLACED.fullmatch(plain)
    if found is None:
        return Frame(kind or Kind.NATIVE, plain)
    line = int(found["line"]) if found["line"] else None
    return Frame(kind or Kind.PYTHON, found["name"], found["file"], line)


def by_function(frame: Frame) -> Frame:
    """The frame without its line: all of a function's are one."""
    return frame if frame.line is None else frame._replace(line=None)
