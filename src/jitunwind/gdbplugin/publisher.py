"""The user's breakpoints do not stop in the thread by which a process publishes its JIT code.

That thread (agent/events.c) executes Python: there a breakpoint in the interpreter is hit for each new region.
Each breakpoint that is made gets a condition, which GDB shows and evaluates as any other: a stop that is undone
afterwards would end the `next` or `finish` that is under way. What the user makes of the condition stays.
"""

import gdb

from jitunwind.gdbplugin.session import follow

NAME = "jitunwind"
"""Of the thread: agent/events.c."""
_FUNCTION = "_in_publisher"
_CONDITION = f"!${_FUNCTION}()"


class _InPublisher(gdb.Function):
    """Whether the selected thread is the one that publishes JIT code in the process (jitunwind's agent).

    Usage: $_in_publisher ()
    Breakpoints that are made have the condition !$_in_publisher()."""

    def __init__(self) -> None:
        super().__init__(_FUNCTION)

    def invoke(self) -> bool:
        return _is_publisher(gdb.selected_thread())


def _is_publisher(thread: gdb.InferiorThread | None) -> bool:
    try:
        return thread is not None and thread.name == NAME
    except gdb.error:
        return False


_pending: set[int] = set()
"""The numbers of breakpoints that get the condition when they have a place: GDB disables a pending one that is given
a condition as soon as a file is loaded that has no place for it, either."""


def _made(made: gdb.Breakpoint) -> None:
    """A breakpoint is there: it gets the condition, with the user's own behind it."""
    try:
        if made.type not in _KINDS or not made.visible or made.thread is not None:
            return
        if made.pending:
            _pending.add(made.number)
            return
        _pending.discard(made.number)
        own = made.condition
        made.condition = f"{_CONDITION} && ({own})" if own else _CONDITION
    except (gdb.error, RuntimeError):  # it has a condition in Python, or is gone: then it stops everywhere
        pass


def _changed(made: gdb.Breakpoint) -> None:
    if made.number in _pending:
        _made(breakpoint)


def _deleted(made: gdb.Breakpoint) -> None:
    _pending.discard(made.number)


_KINDS = {getattr(gdb, name) for name in ("BP_BREAKPOINT", "BP_HARDWARE_BREAKPOINT") if hasattr(gdb, name)}


def install() -> None:
    """Have breakpoints get the condition, those that there are, too."""
    _InPublisher()
    for each in gdb.breakpoints():
        if _CONDITION not in (each.condition or ""):
            _made(each)
    follow(breakpoint_created=_made, breakpoint_modified=_changed, breakpoint_deleted=_deleted)
