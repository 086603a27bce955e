"""What tests share."""

import os


def _is_set(name: str) -> bool:
    return os.environ.get(name, "0") not in ("", "0")


THOROUGH = _is_set("JITUNWIND_THOROUGH")
"""Whether cases do more of the same (`make thorough`): more steps, interrupts, samples and publishes. The cases
themselves are the same with and without it."""
NOISY_GDB = _is_set("JITUNWIND_NOISY_GDB")
"""Whether each GDB prints a warning before each frame (tests/support/noisy.py)."""
