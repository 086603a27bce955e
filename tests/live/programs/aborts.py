"""Once the file `go` is in its directory, aborts inside a C call from JIT code, on the path taken before, too.

Another thread is in JIT code of its own all the while.
"""

import os
import resource
import signal
import threading
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


def other() -> None:
    total = 0
    while True:
        total = total * 3 + 1 & 0xFFFF


resource.setrlimit(resource.RLIMIT_CORE, (resource.getrlimit(resource.RLIMIT_CORE)[1],) * 2)
threading.Thread(target=other, daemon=True).start()
warm(work, 400)
ready()
while not os.path.exists("go"):
    work()
work(LOUD)
