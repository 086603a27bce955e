"""C code that JIT code has called throws a C++ exception, or waits and is cancelled; C++ code above takes note.

Arguments: the folders of the extensions `walker` and `caught`, "hold" or "cancel", and the file for the note.
"""

import sys

sys.path.insert(0, sys.argv[1])
sys.path.insert(0, sys.argv[2])

import caught
import walker
from handshake import ready, warm


def loop() -> int:
    total = 0
    for i in range(60):
        walker.look(i)
        total += caught.look(i)
    return total


warm(loop, 400)
ready()
getattr(caught, sys.argv[3])(loop, sys.argv[4])
