"""What happens in the life of a process that publishes: one course by its name, told in one line of JSON."""

import _thread
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import warnings
from typing import Any

from made import make

import jitunwind
from jitunwind.cpython.layout import read_layout
from jitunwind.cpython.regions import Regions
from jitunwind.memory.own import OwnProcess


def published() -> int:
    jitunwind.flush()
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
        jitunwind.flush()
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


if __name__ == "__main__":
    warnings.simplefilter("error")
    told = globals()[sys.argv[1]]()
    print(json.dumps({**told, "problems": jitunwind.problems()}))
    kept = [make() for _ in range(20)]  # which the interpreter frees at its end
