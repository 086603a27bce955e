"""Debian's packages in the private folder, which `make debuggers` fetches: run with libraries of their own."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tests.support.machines import HERE, Machine

REPOSITORY = Path(__file__).parents[2]


class Fetched(NamedTuple):
    """Unpacked packages of a Debian."""

    root: Path
    versions: Mapping[str, str]

    @property
    def libraries(self) -> Path:
        (folder,) = self.root.glob("usr/lib/*-linux-gnu")
        return folder

    @property
    def loader(self) -> list[str]:
        """What runs a program with the libraries of that Debian."""
        (loader,) = self.libraries.glob("ld-linux-*.so.*")
        return [str(loader), "--library-path", str(self.libraries)]


def fetched(suite: str, *packages: str, machine: Machine = HERE) -> Fetched:
    """Those packages of a Debian suite, in the private folder."""
    script = str(REPOSITORY / "tools/debian_packages.py")
    tool = [sys.executable, script, suite, *packages, "--arch", machine.arch.name]
    done = subprocess.run(tool, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    return Fetched(Path(answer["root"]), answer["versions"])
