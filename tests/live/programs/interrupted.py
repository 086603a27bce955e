"""JIT code is interrupted anywhere, and the process does not go on: once more in each of many children.

Arguments: the folder of the extension `caught`, "cancel" or "fault", how many children, and the folder for what they
leave, a file each, named by number; the file `pages` there gets what JIT code there is and what is published, as JSON.
"cancel": a thread in JIT code is cancelled asynchronously. "fault": a child in
JIT code is sent a signal that kills it, and faulthandler writes the stack.
"""

import faulthandler
import json
import os
import signal
import sys

sys.path.insert(0, sys.argv[1])

import caught
from handshake import ready, settle, warm
from pages import jit_code, published

_, _, how, children, folder = sys.argv
MICROSECONDS = 37
"""What the children wait for longer each."""


def loop() -> int:
    total = 0
    for i in range(60):
        total += caught.look(i) * 3 & 0xFF
        if total & 4:
            total += i
    return total


def work() -> None:
    warm(loop, 10**9)


def cancel(number: int) -> None:
    caught.cancel_anywhere(work, f"{folder}/{number}", number * MICROSECONDS * 1000)


def fault(number: int) -> None:
    with open(f"{folder}/{number}", "w") as file:
        faulthandler.enable(file, all_threads=False)
        caught.signal_after(signal.SIGBUS, number * MICROSECONDS * 1000)
        work()


def main() -> None:
    """A function: to set a module's variable makes CPython compile anew what has compiled others of it in."""
    warm(loop, 400)
    if "jitunwind" in sys.modules:
        settle(loop, 400)
    ready()
    with open(f"{folder}/pages", "w") as file:
        json.dump({"jit": jit_code(), "published": published()}, file)
    for number in range(1, int(children) + 1):
        child = os.fork()
        if not child:
            {"cancel": cancel, "fault": fault}[how](number)
        os.waitpid(child, 0)


main()
