"""Stays in one activation of JIT code for ever: a loop that never ends."""

from handshake import allow_tracing, ready


def work(rounds: float) -> int:
    total = i = 0
    while i < rounds:
        i += 1
        total += i & 7
    return total


work(100_000)
allow_tracing()
ready()
work(float("inf"))
