"""Which cases there are: each run has all of them, and a live test has a case for each version of CPython."""

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.live import VERSIONS
from tests.support.processes import PATIENCE, ROOT

_VERSION = re.compile("|".join(map(re.escape, VERSIONS)))


class Cases(NamedTuple):
    """What tests/support/listed.py has written."""

    collected: dict[str, list[str]]
    reasons: dict[str, tuple[str, bool]]
    deselected: list[str]


def collected(folder: Path, **environment: str) -> Cases:
    file = folder / "cases.json"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "--collect-only",
            "-p",
            "no:cacheprovider",
            "-p",
            "tests.support.listed",
        ],
        env=os.environ | {"JITUNWIND_CASES": str(file)} | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE,
    )
    assert done.returncode == 0, done.stdout
    return Cases(**json.loads(file.read_text()))


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Cases:
    return collected(tmp_path_factory.mktemp("cases"), JITUNWIND_THOROUGH="0")


def test_nothing_is_deselected(cases: Cases) -> None:
    assert not cases.deselected


def test_a_thorough_run_has_the_same_cases(cases: Cases, tmp_path: Path) -> None:
    assert collected(tmp_path, JITUNWIND_THOROUGH="1") == cases


def version_in(case: str) -> str | None:
    """The version of CPython among the parameters of a case."""
    found = _VERSION.search(case.partition("[")[2])
    return found[0] if found else None


def test_each_live_test_has_each_of_its_cases_for_each_version(cases: Cases) -> None:
    """Or it says why one is enough: @pytest.mark.one_version."""
    versions: defaultdict[str, set[str]] = defaultdict(set)
    for case, markers in cases.collected.items():
        version, (reason, is_own) = version_in(case), cases.reasons.get(case, ("", False))
        if "live" in markers and not is_own and (version or not reason):
            versions[_VERSION.sub("VERSION", case)].add(version or "none")
    missing = {case: found for case, found in versions.items() if found != set(VERSIONS)}
    assert not missing


def test_only_live_tests_say_why_one_version_is_enough(cases: Cases) -> None:
    for case, (reason, is_own) in cases.reasons.items():
        assert reason, case
        assert "live" in cases.collected[case] or not is_own, case
