"""The command line: one module per verb, argument parsing and printing only."""

import gc
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from jitunwind.cli.ownprocess import ended_by_interrupts, without_garbage_collection


def main() -> None:
    """The `jitunwind` command. An interruption ends it quietly, however early it comes; so does a reader that
    leaves before all is written. How its children end is told to it, even if it was started with SIGCHLD ignored."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        with ended_by_interrupts(), without_garbage_collection():
            from jitunwind.cli import quick, streams

            streams.take()
            values = quick.values_of(sys.argv[1:], os.environ)
            run = _all_verbs() if values is None else _quickly(values)
        status = run()
    except KeyboardInterrupt:
        status = 130
    gc.freeze()  # what is left goes with the process
    sys.exit(status)


def _all_verbs() -> Callable[[], int]:
    from jitunwind.cli.app import run

    return run


def _quickly(values: dict[str, Any]) -> Callable[[], int]:
    from jitunwind.cli.ending import status_of
    from jitunwind.cli.quick import work

    look = work(values)
    return lambda: status_of(look)
