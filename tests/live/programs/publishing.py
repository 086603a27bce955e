"""What happens in the life of a process that publishes: one course by its name, told in one line of JSON."""

import _thread
import contextlib
import ctypes
import gc
import itertools
import json
import mmap
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from made import make

import jitunwind
from jitunwind.agent.library import loaded_agent
from jitunwind.jits.cpython.discovery import read_layout
from jitunwind.jits.cpython.inside import follow
from jitunwind.jits.cpython.inside.describing import Describer
from jitunwind.jits.cpython.inside.memory import OwnProcess
from jitunwind.jits.cpython.regions import Regions

PATIENCE = 120.0
"""Seconds: far more than anything takes."""
FLUSH = 2.0
"""Seconds that one is given where there is always more to publish."""
SLOW = 0.3
"""Seconds that a region takes where describing is made slow."""
SOME = 5 * SLOW
"""Seconds of a flush that describes some of many such regions."""


def published() -> int:
    assert jitunwind.flush(PATIENCE) == 0
    return jitunwind.statistics().regions


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


def exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def replaced() -> dict[str, Any]:
    """Executors come, and go when the interpreter has made so many that it looks for cold ones (3.15)."""
    counts = [0]
    for _ in range(60 if sys.version_info >= (3, 15) else 3):
        functions = [make() for _ in range(20)]
        counts.append(published())
        functions.clear()
        gc.collect()
        if counts[-1] < counts[-2]:
            break
    return {"counts": counts}


def many() -> dict[str, Any]:
    """Whose code is compiled, where there is more and more to publish."""
    kept = []
    for _ in range(150):
        kept.append(make())
        jitunwind.flush(PATIENCE)
    memory = OwnProcess()
    regions = Regions(memory, read_layout(memory))
    codes = [code for start in regions.starts if (code := regions.find(start)) is not None]
    owners = filter(None, map(regions.code_object, codes))
    return {"published": published(), "files": sorted({owner.filename for owner in owners})}


def forks() -> dict[str, Any]:
    """Children of a process whose threads make code meanwhile: each goes on, and makes code, too."""
    ends = []
    make()
    published()
    for _ in range(20):
        functions = [make() for _ in range(3)]
        pid = os.fork()
        if pid == 0:
            has = published()
            functions.append(make())
            more = published()
            os._exit(0 if has and more and not jitunwind.problems() else 1)
        ends.append(exit_code(pid))
    return {"ends": ends, "threads": threads()}


def fork_in_thread() -> dict[str, Any]:
    """The child of a thread's fork ends with that thread: nothing of ours may keep it."""
    ends: list[int] = []

    def work() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # that there is another thread, the main one
            pid = os.fork()
        if pid == 0:
            make()
            return
        ends.append(exit_code(pid))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return {"ends": ends}


def other_threads() -> dict[str, Any]:
    """Threads that make code all at once."""
    made = []
    started = [threading.Thread(target=lambda: made.extend(make() for _ in range(10))) for _ in range(4)]
    for each in started:
        each.start()
    for each in started:
        each.join()
    return {"made": len(made), "published": published(), "python_threads": _thread._count()}


def subprocesses() -> dict[str, Any]:
    make()
    done = subprocess.run([sys.executable, "-c", "print(6 * 7)"], capture_output=True, text=True)
    return {"said": done.stdout.strip(), "errors": done.stderr, "published": published()}


def disabled() -> dict[str, Any]:
    functions = [make() for _ in range(5)]
    first = published()
    jitunwind.disable()
    off = jitunwind.statistics().regions
    functions.append(make())
    still_off = published()
    jitunwind.enable()
    return {"first": first, "off": off, "still_off": still_off, "again": published()}


def signalled() -> dict[str, Any]:
    """Signals come to the main thread, though another one is there from time to time."""
    seen = []
    signal.signal(
        signal.SIGALRM, lambda *_: seen.append(threading.current_thread() is threading.main_thread())
    )
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    functions = [make() for _ in range(30)]
    signal.setitimer(signal.ITIMER_REAL, 0)
    return {"signals": len(seen), "in_main": all(seen), "published": published(), "made": len(functions)}


def named() -> dict[str, Any]:
    """The thread that publishes, as the kernel knows it: how often it was there, and the signals that it blocks."""
    blocked = []
    functions = []
    deadline = time.monotonic() + PATIENCE
    while not blocked and time.monotonic() < deadline:
        functions.append(make())
        for task in os.listdir("/proc/self/task"):
            with contextlib.suppress(OSError):  # it may have ended
                status = Path(f"/proc/self/task/{task}/status").read_text()
                if "Name:\tjitunwind\n" in status:
                    blocked.append(int(status.partition("SigBlk:")[2].split()[0], 16))
    return {"blocked": blocked, "name": Path("/proc/self/comm").read_text().strip()}


def slow() -> dict[str, Any]:
    """Each region takes a third of a second to be described: so long flushes are asked to take, and the end."""
    published()
    described, count = Describer.described, itertools.count()

    def slowly(self: Describer, some: Sequence[tuple[int, int]]) -> Iterator[Any]:
        for each in described(self, list(some)):
            threading.Event().wait(SLOW)
            next(count)
            yield each

    Describer.described = slowly  # type: ignore[assignment, method-assign]
    functions = [make() for _ in range(40)]
    flushes = [timed(lambda: jitunwind.flush(0))]
    done = [next(count)]
    flushes.append(timed(lambda: jitunwind.flush(SOME)))
    done.append(next(count) - 1)
    waiting, asking = timed(jitunwind.problems)
    made = len(functions)
    times = {"some": SOME, "would_take": made * SLOW}
    counts = {"made": made, "described": done}
    return {"flushes": flushes, "waiting": waiting, "asking": asking, **counts, **times}


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    began = time.monotonic()
    return work(), time.monotonic() - began


def endless() -> dict[str, Any]:
    """Threads that make code for as long as the process lives."""
    ends = threading.Event()

    def work() -> None:
        while not ends.is_set():
            make()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for each in threads:
        each.start()
    try:
        flushes = [timed(lambda: jitunwind.flush(FLUSH)) for _ in range(3)]
    finally:
        ends.set()
        for each in threads:
            each.join()
    return {"flushes": flushes, "limit": FLUSH, "published": published()}


def reentered() -> dict[str, Any]:
    """While `flush` describes a region, a signal's handler or a finalizer in the same thread does each of these."""

    def fork() -> None:
        child = os.fork()
        if child == 0:
            os._exit(0)
        codes.append(exit_code(child))

    def switch() -> None:
        jitunwind.disable()
        jitunwind.enable()

    made, todo, codes, counts = Describer._published, [], [], []

    def enters(self: Describer, *arguments: Any) -> Any:
        while todo:
            todo.pop()()
        return made(self, *arguments)

    Describer._published = enters  # type: ignore[method-assign]
    kept = []
    for each in (fork, lambda: counts.append(jitunwind.flush()), jitunwind.problems, switch):
        loaded_agent().pause()  # the worker leaves it to `flush`
        kept.append(make())
        todo.append(each)
        jitunwind.flush(PATIENCE)
        loaded_agent().resume(True)
    left = jitunwind.flush(PATIENCE)
    found = {
        "left": left,
        "undone": len(todo),
        "codes": codes,
        "counts": len(counts),
        "paused": loaded_agent().is_paused(),
    }
    return found | {"errors": {name: n for name, n in jitunwind.problems().items() if "Error" in name}}


def interrupted_fork() -> dict[str, Any]:
    """A handler of a signal raises while a fork has the publisher pause."""
    kept = [make()]
    jitunwind.flush(PATIENCE)
    follower = follow._follower
    assert follower is not None

    class Raises:
        """In the place of the agent: it pauses, and then the handler of a signal raises."""

        def __getattr__(self, name: str) -> Any:
            return getattr(loaded_agent(), name)

        def pause(self) -> None:
            loaded_agent().pause()
            raise KeyboardInterrupt

    follower._agent = Raises()  # type: ignore[assignment]
    interrupts = 0
    try:
        follow._before_fork()
    except KeyboardInterrupt:
        interrupts += 1
    follower._agent = loaded_agent()
    follow._after_fork(False)
    kept.append(make())
    left = jitunwind.flush(PATIENCE)
    return {"interrupts": interrupts, "paused": loaded_agent().is_paused(), "left": left}


def problems() -> dict[str, Any]:
    """After all is published, each kind of code that is not described: what `problems` says then, and when all is
    right again."""
    found: dict[str, Any] = {}
    kept = [make()]
    jitunwind.flush(PATIENCE)
    found["none"] = [jitunwind.problems()]

    loaded_agent().pause()  # so that what comes goes on waiting
    kept.append(make())
    found["waits"] = [jitunwind.problems()]
    loaded_agent().resume(False)
    jitunwind.flush(PATIENCE)
    found["waits"].append(jitunwind.problems())

    with mmap.mmap(-1, 2 * mmap.PAGESIZE, mmap.MAP_PRIVATE) as memory:  # another JIT's code, say
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        readable, executable = mmap.PROT_READ | mmap.PROT_WRITE, mmap.PROT_READ | mmap.PROT_EXEC
        protect(start, mmap.PAGESIZE, executable)
        found["other"] = [jitunwind.problems()]
        protect(start, mmap.PAGESIZE, readable)
        found["other"].append(jitunwind.problems())

    loaded_agent().pause()  # events that are lost: the code of executors that nobody has told of
    kept.append(make())
    lost = list(loaded_agent().take())
    found["lost"] = [jitunwind.problems()]
    for event in lost:
        assert follow._follower is not None
        follow._follower._waiting[event.start] = event.size
    loaded_agent().resume(True)
    jitunwind.flush(PATIENCE)
    found["lost"].append(jitunwind.problems())

    start, _ = next(iter(Describer().everything()))
    loaded_agent().withdraw_range(start, 1)
    found["withdrawn"] = [jitunwind.problems()]
    jitunwind.disable()
    found["off"] = [jitunwind.problems()]
    jitunwind.enable()
    jitunwind.flush(PATIENCE)
    found["off"].append(jitunwind.problems())

    made = Describer._published

    def fails(self: Describer, *arguments: Any) -> Any:
        raise ValueError("cannot be described")

    Describer._published = fails  # type: ignore[method-assign]
    kept.append(make())
    jitunwind.flush(PATIENCE)
    found["fails"] = [jitunwind.problems()]
    Describer._published = made  # type: ignore[method-assign]
    return {"found": found, "made": len(kept)}


def protect(start: int, size: int, protection: int) -> None:
    """mprotect(2), called by libffi and not by the interpreter."""
    done = ctypes.CDLL(None).mprotect(ctypes.c_void_p(start), ctypes.c_size_t(size), protection)
    assert done == 0


if __name__ == "__main__":
    warnings.simplefilter("error")
    told = globals()[sys.argv[1]]()
    if sys.argv[1:] != ["slow"]:
        jitunwind.flush(PATIENCE)
    print(json.dumps({**told, "problems": jitunwind.problems(), "told_at": time.monotonic()}))
    kept = [make() for _ in range(20)]  # which the interpreter frees at its end
