"""A Python program with many regions of JIT code: its first argument says how many functions there are, its second how
many loops each of them has. It prints "ready", and then runs in JIT code for ever."""

import sys

HEAD = """
def f{n}(count):
    total = {n}
"""
LOOP = """
    for i in range(count):
        total = (total + i * {n}) & 0xFFFF
        if total > 0xFFF0:
            total -= i
"""
TAIL = """
    return total
"""
ENOUGH = 4_500
"""Iterations after which a loop has been compiled."""

functions = []
for number in range(int(sys.argv[1])):
    names = {}
    source = HEAD.format(n=number) + "".join(LOOP.format(n=loop) for loop in range(int(sys.argv[2]))) + TAIL
    exec(compile(source, f"/tmp/regions-{number}.py", "exec"), names)
    functions.append(names[f"f{number}"])
for function in functions:
    function(ENOUGH)
sys.stdout.write("ready\n")
sys.stdout.flush()
while True:
    functions[0](ENOUGH)
