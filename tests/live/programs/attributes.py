"""Attributes (instance dictionaries, slots, properties, class variables) and dictionaries, lists, tuples."""

from handshake import run_forever


class Point:
    scale = 3

    def __init__(self, x: int, y: int) -> None:
        self.x, self.y = x, y

    @property
    def norm(self) -> int:
        return self.x * self.x + self.y * self.y


class Slotted:
    __slots__ = ("value",)

    def __init__(self, value: int) -> None:
        self.value = value


def attributes(point: Point, slotted: Slotted) -> int:
    for i in range(30):
        point.x = i
        point.y += point.x & 3
        slotted.value = slotted.value + Point.scale & 255
    for _ in range(10):
        slotted.value = slotted.value + point.norm & 255
    return slotted.value


def containers() -> int:
    table, items, total = {}, [], 0
    for i in range(30):
        table[i & 15] = i
        total += table[i & 15]
        if i in table:
            total += 1
    for i in range(20):
        items.append((i, total))
        first, second = items[-1]
        total ^= first + second
    return total


def work() -> int:
    return attributes(Point(1, 2), Slotted(0)) + containers()


run_forever(work)
