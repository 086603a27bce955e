"""Cgroups that tests freeze: of version 2, and of version 1's freezer where this machine has it mounted."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


class Cgroup:
    """A cgroup of our own. `kind`: cgroup2, or freezer."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.folder = folder
        self._control = folder / ("cgroup.freeze" if kind == "cgroup2" else "freezer.state")
        self._words = ("1", "0") if kind == "cgroup2" else ("FROZEN", "THAWED")
        self.freeze_command = f"echo {self._words[0]} > {self._control}"

    def add(self, pid: int) -> None:
        (self.folder / "cgroup.procs").write_text(str(pid))

    def freeze(self) -> None:
        self._control.write_text(self._words[0])

    def thaw(self) -> None:
        self._control.write_text(self._words[1])

    def is_frozen(self) -> bool:
        events = self.folder / "cgroup.events"
        return "frozen 1" in events.read_text() if events.exists() else "FROZEN" in self._control.read_text()


def _mounted() -> dict[str, Path]:
    """The kinds that are mounted, each at its place."""
    found = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind == "cgroup2" or (kind == "cgroup" and "freezer" in options.split(",")):
            found["cgroup2" if kind == "cgroup2" else "freezer"] = Path(before.split()[4])
    return found


KINDS = sorted({"cgroup2", *_mounted()})


@contextlib.contextmanager
def cgroup(kind: str, folder: Path) -> Iterator[Cgroup]:
    """A new one, thawed and removed at the end. `folder` is where cgroup2 gets mounted if this machine has it nowhere,
    or only to be read. The test is skipped where that is not permitted."""
    name = f"jitunwind-{os.getpid()}"
    place = _mounted().get(kind)
    with contextlib.ExitStack() as stack:
        if place is None or not os.access(place, os.W_OK):
            folder.mkdir()
            mount = subprocess.run(["mount", "-t", kind, "none", folder], capture_output=True, text=True)
            if mount.returncode:
                pytest.skip(f"cgroups can be neither written nor mounted here: {mount.stderr.strip()}")
            stack.callback(subprocess.run, ["umount", folder], check=True)
            place = folder
        made = place / name
        made.mkdir()
        stack.callback(made.rmdir)
        group = Cgroup(kind, made)
        stack.callback(group.thaw)
        yield group
