"""Work whose shares are known: in each course functions that do the same, for 5, 3 and 2 parts of its time.

`PYTHON shares.py LOOPS [COURSE…]`: each course for about LOOPS hundredths of a second; all, if none is named. The parts
take many milliseconds each, so that samples taken every millisecond count them and chance has little to do with it.
Before, all is compiled and published; the time at which that is done, of the monotonic clock, is printed.
"""

import asyncio
import sys
import threading
import time
import zlib
from collections.abc import Iterator

PARTS = (5, 3, 2)
UNIT = 80_000
"""Iterations in three milliseconds or so."""
WARM_UPS = 3
PATIENCE = 60
DATA = bytes(2_000)
DEPTH = 12


def functions_5(loops: int) -> int:
    total = 0
    for number in range(loops):
        total += (number & 63) * 3 % 7
    return total


def functions_3(loops: int) -> int:
    total = 0
    for number in range(loops):
        total += (number & 63) * 3 % 7
    return total


def functions_2(loops: int) -> int:
    total = 0
    for number in range(loops):
        total += (number & 63) * 3 % 7
    return total


def native_5(loops: int) -> int:
    total = 0
    for number in range(loops // 12):
        total += zlib.crc32(DATA, number) % 7
    return total


def native_3(loops: int) -> int:
    total = 0
    for number in range(loops // 12):
        total += zlib.crc32(DATA, number) % 7
    return total


def native_2(loops: int) -> int:
    total = 0
    for number in range(loops // 12):
        total += zlib.crc32(DATA, number) % 7
    return total


def recursion_5(loops: int, depth: int = DEPTH) -> int:
    total = recursion_5(loops, depth - 1) if depth else 0
    for number in range(loops // DEPTH):
        total += (number & 63) * 3 % 7
    return total


def recursion_3(loops: int, depth: int = DEPTH) -> int:
    total = recursion_3(loops, depth - 1) if depth else 0
    for number in range(loops // DEPTH):
        total += (number & 63) * 3 % 7
    return total


def recursion_2(loops: int, depth: int = DEPTH) -> int:
    total = recursion_2(loops, depth - 1) if depth else 0
    for number in range(loops // DEPTH):
        total += (number & 63) * 3 % 7
    return total


def generators_5(loops: int) -> Iterator[int]:
    total = 0
    for number in range(loops):
        total += (number & 63) * 3 % 7
        if not number % 100:
            yield total


def generators_3(loops: int) -> Iterator[int]:
    total = 0
    for number in range(loops):
        total += (number & 63) * 3 % 7
        if not number % 100:
            yield total


def generators_2(loops: int) -> Iterator[int]:
    total = 0
    for number in range(loops):
        total += (number & 63) * 3 % 7
        if not number % 100:
            yield total


async def coroutines_5(loops: int) -> int:
    total = 0
    for number in range(loops):
        total += (number & 63) * 3 % 7
        if not number % 1000:
            await asyncio.sleep(0)
    return total


async def coroutines_3(loops: int) -> int:
    total = 0
    for number in range(loops):
        total += (number & 63) * 3 % 7
        if not number % 1000:
            await asyncio.sleep(0)
    return total


async def coroutines_2(loops: int) -> int:
    total = 0
    for number in range(loops):
        total += (number & 63) * 3 % 7
        if not number % 1000:
            await asyncio.sleep(0)
    return total


def threads_5(loops: int) -> int:
    total = 0
    for number in range(loops):
        total += (number & 63) * 3 % 7
    return total


def threads_3(loops: int) -> int:
    total = 0
    for number in range(loops):
        total += (number & 63) * 3 % 7
    return total


def threads_2(loops: int) -> int:
    total = 0
    for number in range(loops):
        total += (number & 63) * 3 % 7
    return total


def functions() -> None:
    for part, function in zip(PARTS, (functions_5, functions_3, functions_2), strict=True):
        function(part * UNIT)


def native() -> None:
    for part, function in zip(PARTS, (native_5, native_3, native_2), strict=True):
        function(part * UNIT)


def recursion() -> None:
    for part, function in zip(PARTS, (recursion_5, recursion_3, recursion_2), strict=True):
        function(part * UNIT)


def generators() -> None:
    for part, function in zip(PARTS, (generators_5, generators_3, generators_2), strict=True):
        sum(function(part * UNIT))


def coroutines() -> None:
    async def main() -> None:
        pairs = zip(PARTS, (coroutines_5, coroutines_3, coroutines_2), strict=True)
        await asyncio.gather(*(function(part * UNIT) for part, function in pairs))

    asyncio.run(main())


def threads() -> None:
    """Eight, each with a quarter or a half of one function's part."""
    each = [(threads_5, 5 / 4)] * 4 + [(threads_3, 3 / 2)] * 2 + [(threads_2, 1)] * 2
    started = [threading.Thread(target=f, args=(int(part * UNIT),)) for f, part in each]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()


COURSES = {each.__name__: each for each in (functions, native, recursion, generators, coroutines, threads)}


def main() -> None:
    loops, *names = sys.argv[1:]
    for function in (threads_5, threads_3, threads_2):
        function(UNIT // 4)  # while threads want the GIL, little is compiled
    for name in names or COURSES:
        for _ in range(WARM_UPS):
            COURSES[name]()
    publisher = sys.modules.get("jitunwind")
    if publisher is not None and publisher.flush(PATIENCE):
        sys.exit("not all JIT code is published")
    print(time.monotonic(), flush=True)
    for name in names or COURSES:
        for _ in range(int(loops)):
            COURSES[name]()


if __name__ == "__main__":
    main()
