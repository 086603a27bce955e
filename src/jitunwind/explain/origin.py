"""Where an explanation comes from: of what it is, and who made it where and when.

The page, the terminal and JSON all say it: a page is kept, or mailed, and has to tell by itself what it shows.
"""

import platform
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version


@dataclass(frozen=True)
class Origin:
    """`subject`: "process 12"; `python`: "CPython 3.15.2"; `command`: the command line that the process was started
    with, empty where that is not known; `time`: ISO 8601, with the distance to UTC. `jitunwind` is its version."""

    subject: str
    python: str
    command: str
    jitunwind: str
    host: str
    time: str


def origin_of(subject: str, python: str, command: str) -> Origin:
    """As it is now, on this machine."""
    try:
        own = version("jitunwind")
    except PackageNotFoundError:  # run from sources that nobody has installed
        own = "unknown"
    now = datetime.now().astimezone().isoformat(" ", "seconds")
    return Origin(subject, python, command, own, platform.node(), now)
