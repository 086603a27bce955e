"""Runs three functions, half, third and fifth, for 50, 30 and 20 % of its time: in the way that its argument names.

Says "ready" when they are hot, and after a SIGUSR1, in JSON, what share of its processor time each has really had
since. In `alternating`, half is JIT code, and third and fifth are a C function.
"""

import asyncio
import json
import signal
import sys
import threading
import time
import zlib

WARM_SECONDS = 0.6
UNIT = 1500
"""Rounds of a loop. A thread that is asked to stop goes on for some microseconds, up to its next system call, as the
clock is one that tells the processor time: what runs before one must be long against that."""
DATA = bytes(1 << 20)
OVER = False
LOCK = threading.Lock()
SPENT = {"half": 0.0, "third": 0.0, "fifth": 0.0}


def half(number):
    total = 0
    for each in range(number):
        total += each & 7
    return total


def third(number):
    total = 0
    for each in range(number):
        total += each & 7
    return total


def fifth(number):
    total = 0
    for each in range(number):
        total += each & 7
    return total


def third_in_c(number):
    zlib.crc32(DATA)


def fifth_in_c(number):
    zlib.crc32(DATA)


TURNS = ((half, "half", 5 * UNIT), (third, "third", 3 * UNIT), (fifth, "fifth", 2 * UNIT))
IN_C = ((half, "half", 15 * UNIT), (third_in_c, "third", 0), (fifth_in_c, "fifth", 0))


def measured(function, name, number):
    began = time.thread_time()
    function(number)
    spent = time.thread_time() - began
    with LOCK:
        SPENT[name] += spent


def once(turns):
    for function, name, number in turns:
        measured(function, name, number)


def for_ever(goes_on, turns=TURNS):
    while goes_on():
        once(turns)


def going_on(seconds):
    end = time.monotonic() + seconds
    return (lambda: time.monotonic() < end) if seconds else (lambda: not OVER)


def loops(seconds):
    for_ever(going_on(seconds))


def alternating(seconds):
    for_ever(going_on(seconds), IN_C)


def recursion(seconds):
    def down(levels, turn):
        if levels:
            return down(levels - 1, turn)
        return measured(*turn)

    goes_on = going_on(seconds)
    while goes_on():
        for turn in TURNS:
            down(60, turn)


def threads(seconds):
    goes_on = going_on(seconds)
    started = [threading.Thread(target=for_ever, args=(goes_on,)) for _ in range(7)]
    for each in started:
        each.start()
    for_ever(goes_on)
    for each in started:
        each.join()


def coroutines(seconds):
    async def inner(turn):
        measured(*turn)
        await asyncio.sleep(0)

    async def worker(goes_on):
        while goes_on():
            for turn in TURNS:
                await inner(turn)

    async def main(goes_on):
        await asyncio.gather(*[worker(goes_on) for _ in range(5)])

    asyncio.run(main(going_on(seconds)))


def generators(seconds):
    def each_turn(goes_on):
        while goes_on():
            yield from TURNS

    def results(turns):
        for turn in turns:
            yield measured(*turn)

    for _ in results(each_turn(going_on(seconds))):
        pass


def stop(number, frame):
    global OVER
    OVER = True


signal.signal(signal.SIGUSR1, stop)
mode = globals()[sys.argv[1]]
mode(WARM_SECONDS)
SPENT.update(dict.fromkeys(SPENT, 0.0))
print("ready", flush=True)
mode(0)
whole = sum(SPENT.values())
print(json.dumps({name: spent / whole for name, spent in SPENT.items()}), flush=True)
