"""Where the agent's files lie: jitunwind.h, jitunwind.pc, and the shared objects that an install builds (setup.py)."""

import os

from jitunwind.errors import AgentMissing

FOLDER = os.path.dirname(os.path.abspath(__file__))
AGENT = os.path.join(FOLDER, "agent.so")
DESCRIPTOR = os.path.join(FOLDER, "descriptor.so")


def check() -> None:
    """AgentMissing where the shared objects were not built."""
    for path in (AGENT, DESCRIPTOR):
        if not os.path.exists(path):
            raise AgentMissing(f"{path} is not there: it was not built when jitunwind was installed")
