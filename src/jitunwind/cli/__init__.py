"""The command line: one module per verb, argument parsing and printing only."""

import gc
import signal
import sys

from jitunwind.cli.ownprocess import ended_by_interrupts, without_garbage_collection


def main() -> None:
    """The `jitunwind` command. An interruption ends it quietly, however early it comes; so does a reader that
    leaves before all is written. How its children end is told to it, even if it was started with SIGCHLD ignored."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        with ended_by_interrupts(), without_garbage_collection():
            from jitunwind.cli import streams

            streams.take()
            from jitunwind.cli.app import run

        status = run()
    except KeyboardInterrupt:
        status = 130
    gc.freeze()  # what is left goes with the process
    sys.exit(status)
