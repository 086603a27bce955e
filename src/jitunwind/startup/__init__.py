"""The ways in: switching publishing on in a Python whose program does not do so itself.

`jitunwind run` starts a Python so that it executes `hook/sitecustomize.py` first. JITUNWIND=1 is read by
jitunwind.pth, which an install puts beside the package. `jitunwind enable PID` has a process execute `remote.py`.
These run in the Python that is meant, and end in `jitunwind.enable()`; `launch.py` and `attach.py` are the other
ends, in the user's Python.
"""

import contextlib
import os
import sys

RUN_VARIABLE = "JITUNWIND_RUN"
"""What `jitunwind run` tells `hook/sitecustomize.py`: the folders of jitunwind and iced-x86. Gone before the
program begins."""

PERF_VARIABLE = "JITUNWIND_PERF"
"""What is written for perf, where publishing is switched on from outside: jitdump or map; empty: nothing."""

_has_started = False


def at_start() -> None:
    """What jitunwind.pth calls at the start of a Python, where JITUNWIND is neither empty nor 0.

    Nothing happens where the environment is not to be heeded (-E, -I), in a Python that has no JIT (3.13 and
    older), and under `jitunwind run`, which does it by itself. In a virtual environment 3.14 calls it twice.
    """
    global _has_started
    heeds = not sys.flags.ignore_environment and RUN_VARIABLE not in os.environ
    if heeds and hasattr(sys, "_jit") and not _has_started:
        _has_started = True
        switch_on()


def switch_on() -> None:
    """`jitunwind.enable()`, with what the environment says of perf. A failure is one line on stderr, and the program
    goes on."""
    try:
        import jitunwind

        jitunwind.enable()
    except Exception as error:
        _say(f"JIT code is not published: {one_line(error)}")
        return
    try:
        if perf := os.environ.get(PERF_VARIABLE):
            jitunwind.enable(perf)
    except Exception as error:
        _say(f"JIT code is not written for perf: {one_line(error)}")


def _say(what: str) -> None:
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):  # it may be closed
            print(f"jitunwind: {what}", file=sys.stderr)


def one_line(error: BaseException) -> str:
    """What is wrong, and what to do where that is known."""
    hint = getattr(error, "hint", "")
    what = str(error) if hasattr(error, "hint") else f"{type(error).__name__}: {error}"
    return " ".join((f"{what} ({hint})" if hint else what).split())
