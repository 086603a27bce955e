"""Exceptions raised in callees, in C and in callbacks of C, thrown through JIT code and caught in and above it."""

from handshake import run_forever


class Refused(Exception):
    pass


def refuse(i: int) -> int:
    if i % 5 == 4:
        raise Refused(i)
    return i


def key(i: int) -> int:
    total = 0
    for j in range(8):
        total += j
        if i == 11 and j == 5:
            raise Refused(i)
    return total - i


def uncaught(limit: int) -> int:
    total = 0
    for i in range(40):
        total += i
        if i == limit:
            total += {}[i]
    return total


def work() -> int:
    caught = total = 0
    for i in range(40):
        try:
            total += refuse(i)
        except Refused:
            caught += 1
        finally:
            total += 1
    for limit in (30, 50):
        try:
            uncaught(limit)
        except KeyError:
            caught += 1
    for i in range(20):
        try:
            total += int("7" if i & 3 else "x")
        except ValueError:
            caught += 1
    try:
        sorted([3, 2, 11, 1], key=key)
    except Refused:
        caught += 1
    return caught


run_forever(work)
