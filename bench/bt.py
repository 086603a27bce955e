"""`jitunwind bt` against plain GDB's `thread apply all bt` on the same process.

    python bench/bt.py

With 10 and with 2,000 executors alive, through 1,000 JIT activations, and with debug symbols. jitunwind is installed
as a user installs it, from a wheel into an environment of its own: an editable install takes 20 ms more to start.
The interpreters have their debug files beside them. jitunwind finds them by itself, GDB where it is told to. So in all
lines but those that say "both with debug symbols" GDB has less to read, and names fewer frames.

Where GDB's stack does not reach main, its line says "cut". Where it then has fewer than half of the frames, the two
are not compared.
"""

import os
import re
import subprocess

from support import VERSIONS, debug_folder, in_turns, installed, running

from jitunwind.gdbplugin.launch import find_gdb

ROUNDS = 9
MAIN = "__libc_start"
"""A function of the C library below `main`, which GDB names without debug symbols, too."""
FEW = 10
CASES = (
    (10, 0, False, 1.2),
    (10, 0, True, 0.5),
    (2000, 0, False, 1.0),
    (10, 1000, False, 1.0),
)
"""Executors, activations, whether GDB reads debug symbols, and the aim for the ratio."""


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    return done.stdout


def frames(text: str) -> int:
    return sum(line.startswith("#") for line in text.splitlines())


def stood_still(text: str) -> str:
    """As `bt` says it itself. bench/stops.py looks at it from outside."""
    found = re.search(r"stood still for (.*)$", text, re.MULTILINE)
    return found[1] if found else "unknown"


def main() -> None:
    jitunwind = installed()
    for version in VERSIONS:
        for executors, depth, with_symbols, aim in CASES:
            said = measured(jitunwind, version, executors, depth, with_symbols, aim)
            both = ", both with debug symbols" if with_symbols else ""
            print(
                f"CPython {version}, {executors} executors, {depth} JIT activations{both}: {said}", flush=True
            )


def measured(jitunwind: str, version: str, executors: int, depth: int, with_symbols: bool, aim: float) -> str:
    with running(version, executors, depth) as pid:
        places = ["-iex", f"set debug-file-directory {debug_folder(pid)}"] if with_symbols else []
        plain = [find_gdb(), "-nx", "-batch", *places, "-p", str(pid), "-ex", "thread apply all bt"]
        ours = [jitunwind, "bt", str(pid)]
        text, gdbs_text = run(ours), run(plain)
        mine, gdbs, ratio = in_turns(lambda: run(ours), lambda: run(plain), ROUNDS)
    count, gdbs_count = frames(text), frames(gdbs_text)
    is_cut = MAIN not in gdbs_text
    said = f"bt {mine:.2f} s ({count} frames, stood still for {stood_still(text)}), "
    said += f"gdb {gdbs:.2f} s ({gdbs_count} frames{', cut' if is_cut else ''}), "
    if is_cut and 2 * gdbs_count < count:
        return said + "not compared"
    if is_cut and executors > FEW:  # the aim is for a stack that is whole
        return said + f"ratio {ratio:.2f}"
    return said + f"ratio {ratio:.2f} (aim: at most {aim})"


if __name__ == "__main__":
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # users have compiled files
    main()
