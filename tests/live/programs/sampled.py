"""Runs another of these programs, and has its stacks sampled while it works.

Arguments: the folder of the extension `sampler`; the program; how many samples; the microseconds between two; whether
the handler has a stack of its own (0 or 1); the file for the samples; and, if a debugger is to come before the first
sample, a pipe that it writes to. Beside the file, in one with `.json` after its name: the memory that may be JIT code,
and which pages of it were published before the first sample and after the last.
"""

import json
import os
import runpy
import sys
import threading
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, sys.argv[1])

import handshake
import sampler
from pages import jit_code, published

_, _, program, count, microseconds, alternate, path, *gate = sys.argv


def sampled(work: Callable[[], object], rounds: int = 400, settles: bool = True) -> None:
    """In the place of `handshake.run_forever`."""
    handshake.warm(work, rounds)
    if "jitunwind" in sys.modules and settles:
        handshake.settle(work, rounds)
    handshake.ready()
    for each in gate:
        with open(each, "rb", buffering=0) as pipe:
            pipe.read(1)
    before = published()
    sampler.start()
    while not sampler.is_full():
        sampler.hold(lambda: handshake.warm(work, 20))
    sampler.stop()
    after = published()
    sampler.write(path)
    found = {"is_published": "jitunwind" in sys.modules, "jit": jit_code(), "before": before, "after": after}
    Path(f"{path}.json").write_text(json.dumps(found))
    print("sampled", flush=True)
    os._exit(0)  # other threads go on for ever


run = threading.Thread.run


def run_sampled(self: threading.Thread) -> None:
    sampler.enter()
    run(self)


sampler.prepare(int(count), int(microseconds), bool(int(alternate)))
sampler.enter()
threading.Thread.run = run_sampled  # type: ignore[method-assign]
handshake.run_forever = sampled
runpy.run_path(str(Path(__file__).with_name(f"{program}.py")), run_name="__main__")
