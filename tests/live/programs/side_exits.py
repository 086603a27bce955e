"""A loop whose branches and types change with its phase: traces leave through side exits into other traces."""

from handshake import run_forever


class A:
    def value(self, i: int) -> int:
        return i + 1


class B:
    def value(self, i: int) -> int:
        return i * 2


def work() -> int:
    total = 0
    subjects = (A(), B())
    mixed = (1, 2.5, 3, 4.5)
    for i in range(120):
        phase = i // 30
        if phase == 0:
            total += 1
        elif phase == 1:
            total ^= i
        elif i & 1:
            total -= 3
        else:
            total += i << 1
        total += subjects[i >> 2 & 1].value(i)
        half = mixed[i & 3] + i
        if half > 60:
            total &= 0xFFFF
    return total


run_forever(work)
