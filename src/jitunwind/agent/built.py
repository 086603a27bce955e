"""Where the agent's files lie: shared objects that an install builds (setup.py), and the header for C."""

from pathlib import Path

from jitunwind.errors import AgentMissing

FOLDER = Path(__file__).parent
HEADER = FOLDER / "jitunwind.h"


def agent() -> Path:
    """agent.so; AgentMissing where it was not built."""
    return _built("agent.so")


def descriptor() -> Path:
    """descriptor.so; AgentMissing where it was not built."""
    return _built("descriptor.so")


def check() -> None:
    """AgentMissing where one of them was not built."""
    agent()
    descriptor()


def _built(name: str) -> Path:
    path = FOLDER / name
    if not path.exists():
        raise AgentMissing(f"{path} is not there: jitunwind was installed without a C compiler")
    return path
