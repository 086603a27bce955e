"""Something to record: orders are made, priced, packed and written. Part of it runs in JIT code, part in C.

Says "ready" when it is hot, and goes on until it is killed.
"""

import json
import random
import re
import zlib

WORDS = ("apple", "bread", "cheese", "dates", "eggs", "flour")


class Line:
    def __init__(self, what: str, count: int) -> None:
        self.what, self.count = what, count


def make(number: int) -> list[Line]:
    chance = random.Random(number)
    return [Line(chance.choice(WORDS), chance.randrange(1, 9)) for _ in range(40)]


def price(order: list[Line]) -> int:
    total = 0
    for line in order:
        for unit in range(line.count * 30):
            total += unit * 3 & 15
    return total


def weigh(boxes: list[int]) -> int:
    weight = 0
    for box in boxes:
        for each in range(box):
            weight += each & 7
    return weight


def pack(order: list[Line]) -> int:
    boxes = sorted(line.count * 40 for line in order)
    return weigh(boxes) + fits(len(boxes))


def fits(depth: int) -> int:
    return 0 if depth < 2 else fits(depth // 2) + fits(depth // 3) + 1


def write(order: list[Line], total: int) -> int:
    text = json.dumps({"order": [line.__dict__ for line in order], "total": total}, indent=1)
    return zlib.crc32(re.sub(r"\d+", "#", text).encode())


def serve(count: int) -> None:
    for number in range(count):
        order = make(number)
        write(order, price(order) + pack(order))


def main() -> None:
    serve(300)
    print("ready", flush=True)
    while True:
        serve(100)


main()
