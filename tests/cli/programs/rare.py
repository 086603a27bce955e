"""A hot loop in which a debugger can wait at a call that comes once: the last round's is getsid(2).

Without an argument: once. `fork`: once, then again in two processes. `exec`: once, then the program becomes
another one (itself), with another function that is hot.
"""

import os
import sys

from waiting import begin

FUNCTIONS = [abs] * 20000 + [os.getsid]


def before():
    total = 0
    for function in FUNCTIONS:
        total += function(0)
    return total


def after():
    total = 1
    for function in FUNCTIONS:
        total ^= function(0)
    return total


begin()
what = sys.argv[1] if len(sys.argv) > 1 else ""
if what == "after":
    after()
else:
    before()
if what == "fork":
    child = os.fork()
    before()
    if child:
        os.waitpid(child, 0)
elif what == "exec":
    os.execv(sys.executable, [sys.executable, __file__, "after"])
