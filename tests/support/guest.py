"""jitunwind as a package for another machine: this checkout's Python, and the agent compiled for that machine."""

import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from jitunwind.agent import built
from tests.support.agent import AGENT, WARNINGS
from tests.support.machines import Machine

SOURCE = AGENT.parents[1]
"""The folder with the package `jitunwind`."""
_kept: list["TemporaryDirectory[str]"] = []


@cache
def packages(machine: Machine) -> Path:
    """The folder that holds the package: this checkout's own, or one of links with other shared objects."""
    if not machine.is_emulated:
        return SOURCE
    machine.needed()
    folder: TemporaryDirectory[str] = TemporaryDirectory(prefix="jitunwind-")
    _kept.append(folder)
    package = Path(folder.name, "jitunwind")
    (package / "agent").mkdir(parents=True)
    for each in AGENT.parent.iterdir():
        if each != AGENT:
            (package / each.name).symlink_to(each)
    for each in AGENT.iterdir():
        if each.suffix != ".so":
            (package / "agent" / each.name).symlink_to(each)
    descriptor = AGENT / "descriptor.c"
    sources = {built.AGENT: sorted({*AGENT.glob("*.c")} - {descriptor}), built.DESCRIPTOR: [descriptor]}
    shared = ("-shared", "-fPIC", "-fvisibility=hidden", "-pthread")
    for name, parts in sources.items():
        target = package / "agent" / Path(name).name
        command = [machine.compiler(), "-O2", "-g", *WARNINGS, *shared, "-o", target, *parts, "-ldl"]
        subprocess.run(command, check=True)
    return Path(folder.name)
