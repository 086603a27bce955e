"""Numba's code, registered through GDB's JIT interface, and what it calls back: Python, which may be in JIT code.

`outer` calls `inner`, that calls `back` by a pointer, as C code would. With a JIT of CPython's, numba's pages and the
executors' may come to lie in one mapping.
"""

import ctypes

from handshake import run_forever
from numba import njit


def back(n: int) -> int:
    total = 0
    for i in range(60):
        total += i & n
        if total & 4:
            total += 1
    return total


prototype = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_long)
keeps_lock = ctypes.PYFUNCTYPE(ctypes.c_long, ctypes.c_long)(back)
pointer = prototype(ctypes.cast(keeps_lock, ctypes.c_void_p).value)


@njit(debug=True)
def inner(n):
    return pointer(n) + 1


@njit(debug=True)
def outer(n):
    total = 0
    for i in range(10):
        total += inner(n + i)
    return total


def work() -> None:
    outer(7)


run_forever(work)
