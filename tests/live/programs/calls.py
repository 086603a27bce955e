"""Python calls (positional, keyword, default, method, closure) and C calls from one loop."""

from handshake import run_forever


def add(a: int, b: int = 3) -> int:
    return a + b


def scale(value: int, *, by: int) -> int:
    return value * by & 1023


class Counter:
    def __init__(self) -> None:
        self.count = 0

    def step(self, by: int) -> int:
        self.count += by
        return self.count


def outer(offset: int):
    def inner(value: int) -> int:
        return value + offset

    return inner


def work() -> int:
    counter, shifted, total = Counter(), outer(5), 0
    for i in range(60):
        total = add(i) + add(i, total & 15)
        total = scale(total, by=3)
        total += shifted(i) + counter.step(2)
        total += abs(-i) + len("abc") + min(i, 7)
    return total


run_forever(work)
