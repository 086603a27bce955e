"""C++ exceptions from many places of much JIT code. Arguments: the folder of the extension `caught`, how many functions
there are, and the file for what is found.

Each function is put together of statements by chance; at each place where one can be called stands `at` with a number
of its own. It is called directly, through other C functions and through other functions in JIT code. The file gets, as
JSON, for each place that an exception was thrown from: whether it was caught with all registers, and the program
counter in JIT code that it passed first (0: none).
"""

import json
import operator
import random
import sys
from itertools import count

sys.path.insert(0, sys.argv[1])

import caught
from handshake import publish_all, ready, warm

STATEMENTS = (
    "total += at({n})",
    "total += at({n}) * 3 + i",
    "total ^= operator.call(at, {n})",
    "total += max((0, {n}), key=at)",
    "total += sum(map(at, (1, {n})))",
    "total += sum([at(j) for j in (2, {n})])",
    "total += through({n})",
    "point.x = at({n})",
    "values[i & 7] = at({n}) + len(text)",
    "total += len(text[at({n}) & 7:])",
    "x = x * 0.5 + at({n})",
    "a, b = b, at({n})",
    "total += at({n}) if i & 2 else -1",
    "if i & 1:\n            total += at({n})\n        else:\n            total += 2",
    "for j in (1, 2, {n}):\n            total += at(j)",
    "try:\n            total += at({n}) // (i & 3)\n        except ZeroDivisionError:\n            total += 1",
    "text = f'{at({n}):10}'",
    "total += next(steps) + at({n})",
    "flag = at({n}) in values",
    "total += at({n}) + at({m})",
    "values.append(at({n})); values.pop()",
)
FUNCTION = """
def f():
    total, x, a, b = 1, 1.0, 2, 3
    text, values, point, steps = "some text", list(range(8)), Point(), count()
    for i in range(100):
        {body}
    return total
"""
PLACES = 8
"""Statements of a function."""
WARM, AGAIN = 400, 60
"""Rounds until it is compiled, and between two throws: what was thrown through may not be compiled code any more."""


class Point:
    x = 0


def is_published(pc: int) -> bool:
    library = sys.modules.get("jitunwind.agent.library")
    return library is not None and bool(library.loaded_agent().knows(pc))


def through(number: int) -> int:
    total = 0
    for _ in range(2):
        total += caught.at(number)
    return total


ready()
found, number = [], 1000
for seed in range(int(sys.argv[2])):
    dice = random.Random(seed)
    lines, first = [], number
    for statement in dice.choices(STATEMENTS, k=PLACES):
        lines.append(statement.replace("{n}", str(number)).replace("{m}", str(number + 1)))
        number += 2
    space = {"at": caught.at, "operator": operator, "through": through, "Point": Point, "count": count}
    exec(FUNCTION.replace("{body}", "\n        ".join(lines)), space)
    function = space["f"]
    warm(function, WARM)  # type: ignore[arg-type]
    for each in range(first, number):
        warm(function, AGAIN)  # type: ignore[arg-type]
        publish_all()
        thrown = caught.each(function, each)
        if thrown is not None:
            is_right, pcs = thrown
            found.append((is_right, next((pc for pc in pcs if is_published(pc)), 0)))
with open(sys.argv[3], "w") as file:
    json.dump(found, file)
