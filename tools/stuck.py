"""Two loops for the JIT: work() calls max(), which calls weigh()."""

from os import read


def weigh(number: int) -> int:
    total = 0
    for i in range(number):
        total += read(0, 1)[0] * i & 7
    return total


def work(rounds: int) -> None:
    for i in range(rounds):
        max((30, 20 + i % 20), key=weigh)


work(10**12)
