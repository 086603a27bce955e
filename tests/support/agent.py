"""The agent's C sources, compiled into a harness of tests/agent instead of the shared object."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from jitunwind.agent import built
from tests.support.machines import HERE, Machine

AGENT = Path(built.FOLDER)
HARNESSES = Path(__file__).parents[1] / "agent"
WARNINGS = ("-std=gnu11", "-Wall", "-Wextra", "-Werror")
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
    subprocess.run([*command, HARNESSES / name, *sources, "-ldl"], check=True)
    return program


def run(
    program: Path, *arguments: object, environment: dict[str, str], timeout: float, machine: Machine = HERE
) -> str:
    """What the harness prints; the test fails where it finds anything wrong."""
    done = subprocess.run(
        [*machine.on_its_own, program, *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        errors="replace",
    )
    assert done.returncode == 0, f"{program.name} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert not done.stderr, done.stderr
    return done.stdout
