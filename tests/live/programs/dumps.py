"""faulthandler.dump_c_stack, called from JIT code; it waits with the stack as it is. Arguments: the folder of the
extension `walker`, and the file for the stack.

What is dumped before goes to a file that nobody reads: the code that runs is always the same.
"""

import faulthandler
import os
import sys

sys.path.insert(0, sys.argv[1])

import walker
from handshake import ready, warm

fd = os.open(os.devnull, os.O_WRONLY)


def loop() -> int:
    total = 0
    for i in range(60):
        faulthandler.dump_c_stack(fd)
        total += walker.look(i)
    return total


def work() -> int:
    return walker.hold(loop)


warm(work, 120)  # each takes a while
ready()
os.dup2(os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT), fd)
walker.arm(sys.argv[2] + ".by-walker")
work()
