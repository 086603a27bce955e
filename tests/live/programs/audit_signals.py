"""A signal after every 4 ms of processor time, handled in Python, while a loop runs in JIT code."""

import signal

from handshake import run_forever

came = 0


def note(number: int, frame: object) -> None:
    global came
    came += 1


def work() -> int:
    total = 0
    for i in range(200):
        total = total * 3 + i & 0xFFFF
    return total


signal.signal(signal.SIGPROF, note)
signal.setitimer(signal.ITIMER_PROF, 0.004, 0.004)
run_forever(work)
