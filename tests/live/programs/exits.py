"""JIT code until the file `go` is in its directory; then ends, as programs do."""

import os

from handshake import ready, warm


def work() -> int:
    total = 0
    for i in range(100):
        total += i & 3
    return total


warm(work, 400)
ready()
while not os.path.exists("go"):
    work()
