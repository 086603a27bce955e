"""JIT code that calls getpgid, and more and more other JIT code, each time published before it goes on."""

import os

from handshake import ready
from made import WARM, make

import jitunwind


def calls(rounds: int) -> None:
    getpgid = os.getpgid
    for _ in range(rounds):
        getpgid(0)


calls(3 * WARM)
jitunwind.flush(60)
ready()
made = []
while True:
    calls(300)
    made.append(make())
    jitunwind.flush(60)
