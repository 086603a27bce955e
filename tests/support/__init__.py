"""What tests share."""

import os


def _is_set(name: str) -> bool:
    return os.environ.get(name, "0") not in ("", "0")


THOROUGH = _is_set("JITUNWIND_THOROUGH")
"""Whether tests do all there is to do (`make thorough`). Otherwise they do less of what is the same again and again:
interrupts, steps, ways to publish, publishes."""
HALF = _is_set("JITUNWIND_HALF") and not THOROUGH
"""Whether of a test's cases that differ by the interpreter one half is left out (`make test`), in turns, as on a
chessboard: each test runs, with one version or program or the other."""
NOISY_GDB = _is_set("JITUNWIND_NOISY_GDB")
"""Whether each GDB prints a warning before each frame (tests/support/noisy.py)."""
