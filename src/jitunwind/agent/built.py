"""Where the agent's files lie: jitunwind.h, and the shared objects that an install builds (setup.py)."""

from pathlib import Path

from jitunwind.errors import AgentMissing

FOLDER = Path(__file__).parent
AGENT = FOLDER / "agent.so"
DESCRIPTOR = FOLDER / "descriptor.so"


def check() -> None:
    """AgentMissing where the shared objects were not built."""
    for path in (AGENT, DESCRIPTOR):
        if not path.exists():
            raise AgentMissing(f"{path} is not there: it was not built when jitunwind was installed")
