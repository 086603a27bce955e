"""A C function called from JIT code raises, and the exception leaves the function whose code that is."""

from collections.abc import Sequence

from handshake import run_forever

GOOD = ("7",) * 40
BAD = ("7",) * 20 + ("x",)


def convert(texts: Sequence[str]) -> int:
    total = 0
    for text in texts:
        total += int(text)
    return total


def work() -> int:
    caught = convert(GOOD)
    try:
        convert(BAD)
    except ValueError:
        caught += 1
    return caught


run_forever(work)
