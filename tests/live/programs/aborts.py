"""Once the file `go` is in its directory, aborts inside a C call from JIT code, on the path taken before, too."""

import os
import resource
import signal
from collections.abc import Sequence

from handshake import ready, warm

QUIET = (0,) * 50
LOUD = (0,) * 30 + (signal.SIGABRT,)


def work(signals: Sequence[int] = QUIET) -> int:
    total = 0
    for number in signals:
        signal.raise_signal(number)
        total += 1
    return total


resource.setrlimit(resource.RLIMIT_CORE, (resource.getrlimit(resource.RLIMIT_CORE)[1],) * 2)
warm(work, 400)
ready()
while not os.path.exists("go"):
    work()
work(LOUD)
