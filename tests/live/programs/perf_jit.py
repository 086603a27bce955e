"""Python with `-X perf_jit`: each function runs by a trampoline, which a jitdump file tells perf of.

CPython writes the file through a buffer. The calls of many other functions see to it that the records of these are in
the file.
"""

from handshake import ready

FILLERS = 4000


def inner(n: int) -> int:
    total = 0
    for i in range(n):
        total += i
    return total


def inner_of(n: int) -> int:
    return inner(200 + n)


def outer() -> int:
    return max(range(30), key=inner_of)


outer()
for number in range(FILLERS):
    exec(f"def filler{number}(): pass\nfiller{number}()", {})
ready()
while True:
    outer()
