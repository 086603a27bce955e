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


def work() -> int:
    point, slotted, table, items = Point(1, 2), Slotted(0), {}, []
    for i in range(50):
        point.x = i
        point.y += point.x & 3
        slotted.value += point.norm * Point.scale
        table[i & 15] = table.get(i & 7, 0) + 1
        table["last"] = i
        items.append((i, point.y))
        first, second = items[-1]
        slotted.value ^= first + second
        if (i & 3) in table:
            slotted.value += table[i & 3]
    return slotted.value


run_forever(work)
