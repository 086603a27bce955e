"""What every program of the live tests does at its two ends: warm up, say "ready", and then work for ever.

The work is driven from C (`deque` over `starmap`), so that each round enters JIT code anew and a round is
never inlined into a trace of the driving loop. An alarm ends a program that nobody ended.
"""

import collections
import itertools
import os
import signal
import sys
from collections.abc import Callable

LONGEST_LIFE = 1800
"""Seconds until the alarm."""
MOST_SETTLING, QUIET = 400, 20
"""How often to look whether there is new JIT code, and how often in a row there must be none."""
PR_SET_PTRACER, ANY_PROCESS = 0x59616D61, -1


def allow_tracing() -> None:
    """Let a debugger attach that is no ancestor (prctl(2); Yama's ptrace_scope 1 forbids it else)."""
    try:
        import ctypes
    except ImportError:
        return
    ctypes.CDLL(None).prctl(PR_SET_PTRACER, ctypes.c_ulong(ANY_PROCESS), 0, 0, 0)


def publish_all() -> int:
    """Where the JIT code is published from inside: have all of it published; how many regions that is."""
    publisher = sys.modules.get("jitunwind")
    if publisher is None:
        return 0
    assert publisher.flush(LONGEST_LIFE) == 0
    problems = publisher.problems()
    problems.pop("regions wait to be described", None)  # other threads may have gone on compiling since
    if os.environ.get("JITUNWIND_TEST_EMULATED") == "1":  # qemu-user has a page of its own in the process
        problems.pop("pages of executable memory are not described", None)
    assert not problems, problems
    return publisher.statistics().regions


def settle(work: Callable[[], object], rounds: int) -> None:
    """Go on until the JIT has nothing more to compile: for a moment, new code is unknown to debuggers. (Each
    request for the GIL, which publishing makes, too, leads 3.14 into paths that it has not compiled yet.)"""
    known = quiet = 0
    for _ in range(MOST_SETTLING):
        regions = publish_all()
        quiet, known = quiet + 1 if regions == known else 0, regions
        if quiet == QUIET:
            return
        warm(work, rounds)
    raise RuntimeError("the JIT goes on compiling")


def ready() -> None:
    """A debugger that has started the program can wait for it in alarm(2)."""
    publish_all()
    allow_tracing()
    signal.alarm(LONGEST_LIFE)
    print("ready", flush=True)


def warm(work: Callable[[], object], rounds: int) -> None:
    collections.deque(itertools.starmap(work, itertools.repeat((), rounds)), maxlen=0)


def run_forever(work: Callable[[], object], rounds: int = 400, settles: bool = True) -> None:
    """`rounds` to get warm in, the handshake, then `work` until killed."""
    warm(work, rounds)
    if "jitunwind" in sys.modules and settles:
        settle(work, rounds)
    ready()
    collections.deque(itertools.starmap(work, itertools.repeat(())), maxlen=0)
