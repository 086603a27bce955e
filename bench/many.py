"""A Python program with as many executors as its first argument says, and as many activations on its stack as
its second, each of which has called C from JIT code. It prints "ready", and then runs in JIT code for ever."""

import sys

FUNCTION = """
def f{n}(count):
    total = {n}
    for i in range(count):
        total = (total + i * {n}) & 0xFFFF
        if total > 0xFFF0:
            total -= i
    return total
"""


def descend(depth, rounds):
    """One activation: a loop in JIT code that calls C, which calls Python, which may call this again."""
    total = 0
    for left in range(rounds, -1, -1):
        total += max((left, depth), key=depth_by_left[left])
    return total


def go_on(depth):
    return depth


def go_down(depth):
    if depth == levels[-1]:
        levels.append(depth - 1)
        if depth > 1:
            descend(depth - 1, 20)
        else:
            at_the_bottom()
    return depth


def at_the_bottom():
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        functions[0](10_000)


functions = []
for number in range(int(sys.argv[1])):
    names = {}
    exec(compile(FUNCTION.format(n=number), f"/tmp/many-{number}.py", "exec"), names)
    functions.append(names[f"f{number}"])
for function in functions:
    function(5_000)
sys.setrecursionlimit(1_000_000)
depth = int(sys.argv[2])
if depth:
    levels = [-1]
    depth_by_left = [go_on] * 10_001
    descend(0, 10_000)
    levels = [depth]
    depth_by_left[0] = go_down
    descend(depth, 20)
at_the_bottom()
