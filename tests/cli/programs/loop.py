"""One hot loop, with a callee that its trace has inlined."""

from waiting import begin, take


def f(fd):
    total = 0
    while True:
        total += take(fd)


begin()
f(0)
