"""`jitunwind audit` of AArch64's JIT code: real interpreters, stepped through the stub of qemu's emulation."""

import json
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.live.test_audit import JITUNWIND, LIMIT, assert_exact, audit
from tests.support.live import PROGRAMS, VERSIONS, Interpreter, interpreter
from tests.support.machines import EMULATED, QEMU

STEPS = 3500
KINDS = ("calls", "generators", "exceptions", "attributes", "side_exits", "audit_signals")
"""Six, so that 20,000 instructions are stepped on each version."""
JUDGED = ("CFA", "RA", *(f"x{number}" for number in range(19, 30)))


@pytest.fixture(scope="module", params=VERSIONS)
def arm(request: pytest.FixtureRequest) -> Interpreter:
    return interpreter(request.param, EMULATED)


def of_program(arm: Interpreter, program: str, *options: object) -> dict[str, Any]:
    return audit(*options, "--", arm.python, PROGRAMS / f"{program}.py")


@pytest.mark.parametrize("program", KINDS)
def test_recovered_rows_are_exact_and_published_ones_are_not(arm: Interpreter, program: str) -> None:
    report = of_program(arm, program, "--steps", STEPS, "--emulate")
    assert_exact(report, STEPS)
    assert report["witnesses"]["stepped"] == STEPS
    assert report["witnesses"]["emulated"]
    coverage = report["coverage"]
    assert coverage["stepped"] + coverage["emulated"] >= 0.8 * coverage["reachable"], (
        "3.15 frees what it replaces"
    )
    recovered, published = report["tables"]["recovered"], report["tables"]["published"]
    assert tuple(recovered["registers"]) == JUDGED
    assert report["not_judged"] == [f"d{number}" for number in range(8, 16)]
    assert report["counts"]["bad_exits"] == 0 < report["counts"]["exits"]
    if arm.shim_in_region:
        assert list(published["reasons"]) == ["the process has published nothing for this code"]
        assert published["unknown"] == published["instructions"]
    else:
        assert published["wrong"] >= 0.99 * published["instructions"]
        wrong = {name for name, tally in published["registers"].items() if tally["wrong"]}
        assert not wrong & {"CFA", "RA", "x29"}
        assert wrong >= {f"x{number}" for number in range(20, 27)}
    if program == "audit_signals":
        assert report["counts"]["signals"], "no signal met a step"


def test_the_text_shows_what_is_wrong_as_binutils_do(arm: Interpreter) -> None:
    command = [*JITUNWIND, "audit", "--steps", "500", "--", arm.python, str(PROGRAMS / "loops.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 1, done.stderr
    assert "500 instructions stepped" in done.stdout
    assert "not judged: d8, d9, d10, d11, d12, d13, d14, d15" in done.stdout
    if not arm.shim_in_region:
        assert "x20  table 0x" in done.stdout


def test_a_program_that_ends_is_told_of(arm: Interpreter, tmp_path: Path) -> None:
    script = tmp_path / "ends.py"
    script.write_text("total = 0\nfor i in range(9000):\n    total += i\nraise SystemExit(7)\n")
    report = audit("--table", "recovered", "--", arm.python, script)
    assert_exact(report, 100)
    assert "the program ended with exit status 7" in report["said"]
    assert report["status"] == 0


def test_a_stub_that_waits_already(arm: Interpreter, tmp_path: Path) -> None:
    """With the options of one's own choice: here without pointer authentication."""
    socket = tmp_path / "stub"
    command = [*QEMU, "-g", socket, arm.python, PROGRAMS / "loops.py"]
    with subprocess.Popen(command, env=arm.environment(), stdout=subprocess.DEVNULL) as waiting:
        try:
            deadline = time.monotonic() + LIMIT
            while not socket.exists():
                assert waiting.poll() is None
                assert time.monotonic() < deadline
            report = audit("--remote", socket, "--steps", 500, "--table", "recovered", arm.python)
            assert_exact(report, 500)
            assert report["subject"] == arm.python
            assert waiting.poll() is None, "it has been let go, and runs on"
        finally:
            waiting.kill()


def test_an_interrupt_gives_the_report_so_far(arm: Interpreter, tmp_path: Path) -> None:
    """It comes when enough of an activation was stepped, and the program runs on by itself."""
    script = tmp_path / "hot.py"
    script.write_text(
        "total = 0\nfor i in range(1 << 60):\n    total += i\n    if i == 30000:\n        print('hot', flush=True)\n"
    )
    command = [*JITUNWIND, "audit", "--json", "--table", "recovered", "--", arm.python, str(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "hot\n" in iter(process.stderr.readline, "")  # behind what it waits for, on a slow machine
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == 130
    assert_exact(json.loads(said) | {"said": ""}, 1000)


def test_nothing_is_left_when_the_one_who_steps_is_killed(arm: Interpreter) -> None:
    command = [*JITUNWIND, "audit", "--", arm.python, str(PROGRAMS / "loops.py")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        emulator = wait_for_child(process.pid)
        process.kill()
    deadline = time.monotonic() + LIMIT
    while is_running(emulator):
        assert time.monotonic() < deadline, "qemu runs on"


def wait_for_child(pid: int) -> int:
    """The number of the first process that this one has started."""
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        with suppress(FileNotFoundError):
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            if children:
                return int(children[0])
    pytest.fail("it has started nothing")


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_wrong_table_is_found(arm: Interpreter) -> None:
    """A check that cannot fail proves nothing: tests/support/mutations.py damages rows of each table."""
    script = Path(__file__).parents[1] / "support/mutations.py"
    command = [sys.executable, script, arm.python, PROGRAMS / "loops.py", "1000", "50"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["changing"] >= 0.2 * found["mutations"] > 0
    assert not found["missed"]
    assert not found["false_alarms"]
