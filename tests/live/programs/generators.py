"""Generators: a hot loop inside one, `for` over one, a delegating one and one that is sent values."""

from handshake import run_forever


def blocks(count: int):
    for block in range(count):
        inner = 0
        for i in range(20):
            inner += i ^ block
        yield inner


def delegated(count: int):
    yield from blocks(count)


def accumulate():
    total = 0
    while True:
        value = yield total
        total = total + value & 0xFFFF


def work() -> int:
    total = 0
    for value in delegated(6):
        total += value
    sink = accumulate()
    next(sink)
    for i in range(40):
        total = sink.send(i)
    return total + sum(i * 2 for i in range(30))


run_forever(work)
