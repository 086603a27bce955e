"""Signal dispositions: what tests start gets the default ones, whatever those of whoever started the tests are.

A background job of a shell script ignores SIGINT, one of nohup(1) SIGHUP, and what they start does, too: a program
that is to end by a signal would never end. The process of the tests itself goes on ignoring what it ignored.
"""

import signal
from types import FrameType

_PYTHONS_OWN = (signal.SIGPIPE, signal.SIGXFSZ)
"""Python ignores these itself, and subprocess gives children the default."""


def default_for_children() -> None:
    """Have programs that this process starts inherit no ignored or blocked signal: a handler becomes the default
    (execve(2))."""
    for number in signal.valid_signals() - set(_PYTHONS_OWN):
        if signal.getsignal(number) is signal.SIG_IGN:
            # With SIGCHLD ignored, nobody learns how a child ended (waitpid(2)).
            signal.signal(number, signal.SIG_DFL if number == signal.SIGCHLD else _do_nothing)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())


def _do_nothing(number: int, frame: FrameType | None) -> None:
    pass
