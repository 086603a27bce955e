"""The agent's C sources, compiled: into a harness of tests/agent, or for another machine."""

import os
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from jitunwind.agent import built
from tests.support.machines import HERE, Machine

AGENT = Path(built.FOLDER)
HARNESSES = Path(__file__).parents[1] / "agent"
WARNINGS = ("-std=gnu11", "-Wall", "-Wextra", "-Werror")
_kept: list["TemporaryDirectory[str]"] = []
QUIET_HEAP = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}
"""Without it freed blocks wait in each thread, and count as allocated."""


def harness(
    name: str,
    into: Path,
    flags: Sequence[str] = (),
    without: Sequence[str] = ("imports.c", "module.c"),
    machine: Machine = HERE,
) -> Path:
    """`name` compiled and linked with the agent's sources: those that are not `without`, which would be hooks of
    the harness's own calls, or are in the harness already."""
    sources = [path for path in sorted(AGENT.glob("*.c")) if path.name not in without]
    program = into / Path(name).stem
    if machine.is_emulated:
        flags = (*flags, "-DEMULATED")
    compiler = [machine.compiler(), "-O1", "-g", *WARNINGS]
    command = [*compiler, *flags, "-pthread", "-rdynamic", f"-I{AGENT}", "-o", program]
    subprocess.run([*command, HARNESSES / name, *sources, *machine.linking, "-ldl"], check=True)
    return program


def run(
    program: Path, *arguments: object, environment: dict[str, str], timeout: float, machine: Machine = HERE
) -> str:
    """What the harness prints; the test fails where it finds anything wrong."""
    done = subprocess.run(
        [*machine.emulator, program, *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        errors="replace",
    )
    assert done.returncode == 0, f"{program.name} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert not done.stderr, done.stderr
    return done.stdout


@cache
def bytecode() -> str:
    """PYTHONPYCACHEPREFIX: the folder for what interpreters compile. Under an emulator that takes seconds."""
    folder: TemporaryDirectory[str] = TemporaryDirectory(prefix="jitunwind-")
    _kept.append(folder)
    return folder.name


@cache
def packages(machine: Machine) -> Path:
    """The folder that holds the package jitunwind for that machine: this checkout's own, or one of links to it with
    shared objects of its own."""
    if not machine.is_emulated:
        return AGENT.parents[1]
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
