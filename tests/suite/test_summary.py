"""A run of the tests ends with its counts, and in CI fails if it has left a case out."""

import os
import re
import subprocess
import sys

from tests.support.processes import PATIENCE, ROOT

FILE = "tests/test_rows.py"
CASE = f"{FILE}::test_addresses_wrap_round_at_64_bits"


def run(*options: str, ci: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", FILE, *options],
        env=os.environ | {"CI": ci},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def test_counts_and_processor_time_are_printed_of_several_processes() -> None:
    done = run("-n", "2", "--costs", "-k", CASE.rpartition("::")[2])
    assert done.returncode == 0, done.stdout
    found = re.search(
        r"^(\d+) cases collected, 1 run, 0 skipped, (\d+) deselected; \d+ s of processor time in \d+ s$",
        done.stdout,
        re.MULTILINE,
    )
    assert found is not None, done.stdout
    assert int(found[1]) == int(found[2]) + 1 > 10
    assert re.search(rf" s, 1 cases: {FILE} \(\d+\.\d s: ", done.stdout), done.stdout


def test_in_ci_no_case_may_be_left_out() -> None:
    assert run("--deselect", CASE).returncode == 0
    assert run("--deselect", CASE, ci="true").returncode == 1
    assert run("-k", "wrap", ci="true").returncode == 0, "asked for a part"
