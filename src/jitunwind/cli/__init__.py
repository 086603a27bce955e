"""The command line: one module per verb, argument parsing and printing only."""

import signal
import sys


def main() -> None:
    """The `jitunwind` command. An interruption ends it quietly, however early it comes; so does a reader that
    leaves before all is written."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        from jitunwind.cli.app import run

        status = run()
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)
