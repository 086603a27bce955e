"""The command line: one module per verb, argument parsing and printing only."""

import signal
import sys

INHERITED_SIGCHLD = signal.getsignal(signal.SIGCHLD)
"""The disposition of SIGCHLD that this process was started with, for a program that it becomes."""


def main() -> None:
    """The `jitunwind` command. An interruption ends it quietly, however early it comes; so does a reader that
    leaves before all is written. How its children end is told to it, even if it was started with SIGCHLD ignored."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        from jitunwind.cli import streams

        streams.take()
        from jitunwind.cli.app import run

        status = run()
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)
