"""Functions that get hot, run and are dropped again, so that executors are freed and their memory is reused."""

import gc

from handshake import ready

SOURCE = """
def f(n):
    total = {k}
    for i in range(n):
        total = (total + i * {k}) & 0xFFFF
    return total
"""


def once(k: int) -> int:
    names: dict[str, object] = {}
    exec(SOURCE.format(k=k), names)
    return names["f"](6000)  # type: ignore[operator]


ready()
k = 0
while True:
    k += 1
    once(k)
    if k % 5 == 0:
        gc.collect()
