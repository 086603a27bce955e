"""Two threads in JIT code: one calls `id` from it, the other waits for a byte, without the GIL.

(Two that compete for the GIL would not do: at each stop of a debugger's one has waited long enough to ask
for it, and the interpreter does not enter JIT code while somebody asks.)
"""

import array
import fcntl
import os
import termios
import threading
import time

from handshake import run_forever

WARM = 8000


def work() -> int:
    total = 0
    for i in range(100):
        total += id(i) & 1
    return total


def other(fd: int) -> None:
    read = os.read
    while True:
        read(fd, 1)


def left(fd: int) -> int:
    """How many bytes wait in a pipe."""
    count = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, count)
    return count[0]


reader, writer = os.pipe()
os.write(writer, b"w" * WARM)
threading.Thread(target=other, args=(reader,), daemon=True).start()
while left(reader):
    time.sleep(0.001)
run_forever(work)
