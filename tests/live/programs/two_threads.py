"""Two threads in JIT code: one calls `id` from it, the other only counts."""

import threading

from handshake import run_forever


def work() -> int:
    total = 0
    for i in range(100):
        total += id(i) & 1
    return total


def other() -> None:
    total = 0
    while True:
        total = total * 3 + 1 & 0xFFFF


threading.Thread(target=other, daemon=True).start()
run_forever(work)
