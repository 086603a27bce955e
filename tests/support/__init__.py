"""What tests share."""

import os

THOROUGH = os.environ.get("JITUNWIND_THOROUGH", "0") not in ("", "0")
"""Whether tests do all there is to do (`make thorough`). Otherwise they do less of what is the same again and again:
interrupts, steps, ways to publish, publishes."""
