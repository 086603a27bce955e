"""As many threads as its argument says, all in JIT code for ever. Prints "ready" when they run."""

import sys
import threading


def work(started):
    total = 0
    started.wait()
    while True:
        for number in range(10_000):
            total = (total + number) & 0xFFFF


count = int(sys.argv[1])
barrier = threading.Barrier(count)
for _ in range(count - 1):
    threading.Thread(target=work, args=(barrier,), daemon=True).start()
sys.stdout.write("ready\n")
sys.stdout.flush()
work(barrier)
