"""A hot loop that `v` stops in a vfork, and `t` a second thread of it, until a byte comes on a descriptor.

Arguments: the path of vfork.c's shared object, and the descriptor.
"""

import ctypes
import os
import sys
import threading

from waiting import answer, begin

VFORK_UNTIL = ctypes.CDLL(sys.argv[1]).vfork_until
RELEASE = int(sys.argv[2])


def take(fd):
    byte = os.read(fd, 1)
    if byte == b"w":
        return 1
    if byte == b"v":
        VFORK_UNTIL(RELEASE)
    elif byte == b"t":
        threading.Thread(target=VFORK_UNTIL, args=(RELEASE,), daemon=True).start()
    else:
        answer(byte)
    return 0


def f(fd):
    total = 0
    while True:
        total += take(fd)


begin()
f(0)
