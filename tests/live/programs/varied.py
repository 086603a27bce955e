"""Much JIT code of many kinds: functions put together of statements by chance, each called until it is compiled.

Arguments: how many functions, and how many statements each. It says "ready", and then does nothing.
"""

import random
import signal
import sys

from handshake import ready, warm

STATEMENTS = (
    *("total += i * 3", "total ^= len(text)", "total &= 0xFFFFF", "total += max(i, 7)", "total -= i >> 2"),
    *(
        "x = x * 0.5 + i",
        "x -= total",
        "a, b = b, a",
        "total += a - b",
        "point.x += 1",
        "total += point.moved(i)",
    ),
    *(
        "values[i & 7] = total & 0xFF",
        "total += values[i & 7]",
        "table[i & 15] = i",
        "total += table.get(i, 1)",
    ),
    *("text = text[1:] + text[:1]", "name = f'{i & 7}'", "total += ord(name)", "total += combine(i, a, b)"),
    *(
        "flag = i in values",
        "total += -i if flag else ~i",
        "total += next(steps)",
        "values.append(values.pop())",
    ),
    *("total += isinstance(i, int)", "other = (i, total)", "total += other[0]", "total = int(x) & 0xFF"),
    "if i & {n}:\n            total -= 1\n        else:\n            total += 2",
    "try:\n            total += 7 // (i & 3)\n        except ZeroDivisionError:\n            total += 1",
    "for j in (1, 2, {n}):\n            total += j",
    "while total & 0x40:\n            total -= 0x30",
)
FUNCTION = """
def f():
    total, x, a, b, i = 1, 1.0, 2, 3, 0
    flag, other, name, text = False, (1, 2), "a", "text"
    values, table, point, steps = list(range(8)), dict(enumerate(range(16))), Point(), counted()
    for i in range(60):
        {body}
    return total
"""


class Point:
    def __init__(self) -> None:
        self.x = 0

    def moved(self, by: int) -> int:
        return self.x + by


def combine(one: int, other: int, third: int) -> int:
    return one * other - third


def counted():  # type: ignore[no-untyped-def]
    n = 0
    while True:
        n += 1
        yield n


functions, statements = map(int, sys.argv[1:])
for number in range(functions):
    dice = random.Random(number)
    body = "\n        ".join(dice.choices(STATEMENTS, k=statements)).replace("{n}", str(1 << number % 5))
    space = {"Point": Point, "combine": combine, "counted": counted}
    exec(FUNCTION.replace("{body}", body), space)
    warm(space["f"], 100)  # type: ignore[arg-type]
ready()
signal.pause()
