"""bench/testsuite.py as a command: it says which of CPython's own tests come out otherwise."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULE = "test_generators"  # takes a second


def compare(startup: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs MODULE off and on, where "on" is `startup`; skips where there is no interpreter with tests."""
    tool = [sys.executable, str(ROOT / "tools/interpreters.py"), "3.14", "--testsuite"]
    found = subprocess.run(tool, capture_output=True, text=True)
    if found.returncode:
        pytest.skip(found.stderr.strip().splitlines()[-1])
    (folder / "startup.py").write_text(startup)
    command = [sys.executable, str(ROOT / "bench/testsuite.py"), "--versions", "3.14", "--modules", MODULE]
    options = ["--rounds", "0", "--startup", str(folder / "startup.py"), "--folder", str(folder / "suite")]
    return subprocess.run([*command, *options], capture_output=True, text=True)


def test_a_start_that_changes_nothing_makes_no_difference(tmp_path: Path) -> None:
    done = compare("", tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "DIFFERS" not in done.stdout
    row = next(line for line in done.stdout.splitlines() if line.startswith(MODULE)).split()
    assert int(row[1]) > 50, "few tests passed"
    assert row[1:4] == row[6:9]


def test_a_test_that_fails_with_it_alone_is_named(tmp_path: Path) -> None:
    done = compare("import gc; gc.get_threshold = None", tmp_path)

    assert done.returncode == 1, done.stdout + done.stderr
    assert "GeneratorTest.test_handle_frame_object_in_creation: off passed; on failed" in done.stdout


def test_what_a_module_leaves_behind_counts(tmp_path: Path) -> None:
    done = compare("import inspect; inspect.stack = None", tmp_path)  # for a __del__

    assert done.returncode == 1, done.stdout + done.stderr
    assert "(the module): off passed; on env changed" in done.stdout


def test_a_process_that_dies_is_told_from_one_that_fails(tmp_path: Path) -> None:
    done = compare("import os, sys\nif '-m' in sys.orig_argv: os.kill(os.getpid(), 11)", tmp_path)

    assert done.returncode == 1, done.stdout + done.stderr
    assert "(the module): off passed; on status -11" in done.stdout
    assert "more that are missing with publishing" in done.stdout


def test_a_start_that_fails_is_refused(tmp_path: Path) -> None:
    done = compare("raise ValueError('not today')", tmp_path)

    assert done.returncode == 1
    assert "not today" in done.stderr
    assert "publishing cannot be switched on" in done.stderr
