"""Processes in PID namespaces: threads have other numbers inside than here, and their Python frames are shown all
the same."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import (
    PROGRAMS,
    VERSIONS,
    Program,
    interpreter,
    jitunwind,
    plain_environment,
    status,
    wait_until,
)

GDB = shutil.which("gdb")
UNSHARE = ["unshare", "--pid", "--fork", "--kill-child"]
pytestmark = pytest.mark.skipif(
    subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode != 0,
    reason="no PID namespaces for this user",
)
READERS = [[], *([["--gdb", GDB]] if GDB else [])]


class Inside(Program):
    """A Python that is the first process of a PID namespace; `pid` is its number here."""

    def __init__(self, version: str, name: str) -> None:
        super().__init__([*UNSHARE, interpreter(version), PROGRAMS / name])
        outer = self.process.pid
        wait_until(lambda: bool(self._children(outer)), "the first process of a namespace")
        (self.pid,) = self._children(outer)
        wait_until(lambda: "python" in status(self.pid).get("Name", ""), "the interpreter")

    @staticmethod
    def _children(pid: int) -> list[int]:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture(scope="module", params=VERSIONS)
def threads(request: pytest.FixtureRequest) -> Iterator[Inside]:
    with Inside(request.param, "threads.py") as running:
        wait_until(lambda: len(running.tids()) > 1, "a second thread")
        running.warm()
        yield running


def python_functions(shown: str) -> dict[int, list[str]]:
    """The functions of the Python frames of each thread."""
    found: dict[int, list[str]] = {}
    for part in re.split(r"^Thread ", shown, flags=re.MULTILINE)[1:]:
        found[int(part.split()[0])] = re.findall(r"^#\d+ +python (\S+)", part, re.MULTILINE)
    return found


@pytest.mark.live
@pytest.mark.parametrize("reader", READERS, ids=" ".join)
def test_threads_have_their_own_python_frames(reader: list[str], threads: Inside) -> None:
    own = status(threads.pid)["NSpid"].split()
    assert len(own) == 2
    assert own[1] == "1"
    done = jitunwind("bt", threads.pid, "--python", *reader)
    found = python_functions(done.stdout)
    assert sorted(found) == threads.tids()
    assert "first" in found[threads.pid]
    for tid in set(found) - {threads.pid}:
        name = Path(f"/proc/{tid}/comm").read_text().strip()  # second, or third: as its function
        assert name in found[tid], done.stdout
    assert threads.goes_on()


@pytest.mark.live
@pytest.mark.parametrize("reader", READERS, ids=" ".join)
def test_a_core_from_inside_is_read_by_its_stacks(reader: list[str], threads: Inside, tmp_path: Path) -> None:
    if shutil.which("gcore") is None:
        pytest.skip("no gcore")
    command = ["gcore", "-o", str(tmp_path / "core"), str(threads.pid)]
    subprocess.run(command, capture_output=True, check=True, env=plain_environment())

    core = tmp_path / f"core.{threads.pid}"
    found = python_functions(jitunwind("bt", core, "--python", *reader).stdout)
    assert "<module>" in found[threads.pid]
