"""Threads that come and go, children that are forked and run the same JIT code, and other programs started.

Ends by itself: its exit status is 0 only if every child came back with what it had to find. Where an argument
says "exec", it ends by becoming another program in which JIT code runs, too.
"""

import os
import subprocess
import sys
import threading

found = []


def work() -> int:
    total = 0
    for i in range(100):
        total = total * 3 + i & 0xFFFF
    return total


def in_thread() -> None:
    for _ in range(5):
        found.append(work())


EXPECTED = work()
for _ in range(100):
    work()
for _ in range(4):
    threads = [threading.Thread(target=in_thread) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    child = os.fork()
    if child == 0:
        os._exit(0 if all(work() == EXPECTED for _ in range(5)) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "the child is damaged"
    assert subprocess.run(["true"]).returncode == 0
assert set(found) == {EXPECTED}, "a thread is damaged"
print("all is well", flush=True)
if sys.argv[1:] == ["exec"]:
    os.execv(sys.executable, [sys.executable, __file__])
