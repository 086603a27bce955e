"""Through C and back: key functions, map, reduce, `__getattr__`, `__str__`, and recursion by them."""

import functools

from handshake import run_forever


def key(value: int) -> int:
    total = 0
    for i in range(6):
        total += value >> i
    return -total


class Dynamic:
    def __getattr__(self, name: str) -> int:
        total = 0
        for letter in name:
            total += ord(letter)
        return total

    def __str__(self) -> str:
        text = ""
        for i in range(5):
            text += "ab"[i & 1]
        return text


def deeper(depth: int) -> int:
    total = 0
    for i in range(3):
        total += i
        if depth:
            total += max(map(deeper, (depth - 1,)))
    return total


def combine(a: int, b: int) -> int:
    for _ in range(4):
        a = a + b & 255
    return a


def work() -> int:
    dynamic, total = Dynamic(), 0
    for i in range(4):
        total += sum(sorted(range(5), key=key))
        total += dynamic.missing + len(str(dynamic))
        total += functools.reduce(combine, range(5), i)
    return total + deeper(3)


run_forever(work)
