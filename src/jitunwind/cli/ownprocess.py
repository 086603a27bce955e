"""How this very process behaves: what signals do to it, and whether it looks for garbage."""

import gc
import signal
from collections.abc import Iterator
from contextlib import contextmanager

INHERITED_SIGCHLD = signal.getsignal(signal.SIGCHLD)
"""The disposition of SIGCHLD that this process was started with, for a program that it becomes."""


@contextmanager
def ended_by_interrupts() -> Iterator[None]:
    """An interruption ends this process at once, by its signal: while modules are imported, where Python would print a
    traceback of whatever it was at. A disposition that was inherited stays."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """For what is over in a tenth of a second: looking for cycles would take a sixth of that."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
