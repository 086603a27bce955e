"""AArch64's JIT code in the emulator and against the recovered states: much of it, of many kinds."""

import os
import subprocess
from pathlib import Path

import pytest

from jitunwind.audit.remote import RemoteTracee
from jitunwind.audit.subject import dump_of_remote
from jitunwind.jits.dump import load, save
from tests.live.test_audit import audit
from tests.support.live import VERSIONS, interpreter
from tests.support.machines import EMULATED

FUNCTIONS = {"3.14": (2, 30), "3.15": (4, 40)}
"""Functions of the varied program, and statements of each: docs/audit.md has more of them."""
LEAST = 5_000

pytestmark = [pytest.mark.live, pytest.mark.aarch64]


@pytest.fixture(scope="module", params=VERSIONS)
def dump(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That of the varied program, once all of it is compiled."""
    arm = interpreter(request.param, EMULATED)
    said, output = os.pipe()
    command = arm.command("varied", *map(str, FUNCTIONS[request.param]))[len(EMULATED.emulator) :]
    tracee = RemoteTracee.start(command, arm.environment(), output, EMULATED.arch)
    os.close(output)
    tracee.go_on()
    with os.fdopen(said) as lines:
        assert lines.readline() == "ready\n"
    assert tracee.stop()
    warnings: list[str] = []
    found = dump_of_remote(tracee, warnings.append)
    assert not warnings
    path = tmp_path_factory.mktemp("dump") / "jit.elf"
    path.write_bytes(save(found))
    again = load(path)
    assert (again.architecture, again.name, again.names) == (EMULATED.arch, found.name, found.names)
    assert [(code.start, code.data) for code in again.codes] == [
        (code.start, code.data) for code in found.codes
    ]
    return path


@pytest.mark.slow
def test_every_path_is_exact(dump: Path) -> None:
    report = audit("--emulate", dump)
    recovered, published = report["tables"]["recovered"], report["tables"]["published"]
    assert recovered["instructions"] >= LEAST
    assert (recovered["wrong"], recovered["unknown"]) == (0, 0), report["examples"] or recovered["reasons"]
    assert report["coverage"]["emulated"] == report["coverage"]["reachable"]
    assert report["counts"]["bad_exits"] == 0 < report["counts"]["exits"]
    assert published["exact"] == 0


def test_the_recovered_states_say_the_same_of_what_is_published(dump: Path) -> None:
    """Each instruction that is wrong in the emulator is so here; it comes to some of them in several ways."""
    emulated = audit("--emulate", "--table", "published", dump)["tables"]["published"]
    static = audit("--static", dump)["tables"]["published"]
    assert not static["exact"]
    assert bool(static["wrong"]) == bool(emulated["wrong"])
    for register, tally in static["registers"].items():
        assert bool(tally["wrong"]) == bool(emulated["registers"][register]["wrong"]), register


def test_binutils_read_the_dump(dump: Path) -> None:
    done = subprocess.run(
        ["aarch64-linux-gnu-objdump", "-d", dump], capture_output=True, text=True, check=True, timeout=120
    )
    assert "file format elf64-littleaarch64" in done.stdout
    assert done.stdout.count("\tret") > 10
