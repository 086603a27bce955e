"""What holds for all tests."""

import os
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from tests.support import HALF, NOISY_GDB, noisy
from tests.support.dispositions import default_for_children


def pytest_configure(config: pytest.Config) -> None:
    default_for_children()
    if NOISY_GDB and noisy.FOLDER not in os.environ:  # those of pytest-xdist inherit it
        folder = tempfile.TemporaryDirectory(prefix="jitunwind-noisy-")
        config.add_cleanup(folder.cleanup)
        noisy.put_on_path(Path(folder.name))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI nothing may be missing: there a test that would be skipped fails."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"in CI, nothing may be missing: {reason}"
    return report


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave one half out, where that is asked for."""
    if not HALF:
        return
    cases: dict[str, list[Any]] = {}
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        if {"version", "python"} & set(parameters) and "way" not in parameters:
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    left_out = set()
    for turn, group in enumerate(cases.values()):
        half = {item for item in group if _colour(item.callspec.indices) == turn % 2}
        if len(half) < len(group):
            left_out |= half
    config.hook.pytest_deselected(items=[item for item in items if item in left_out])
    items[:] = [item for item in items if item not in left_out]


def _colour(indices: dict[str, int]) -> int:
    """0 or 1, of a case by the indices of its parameters: neighbours differ in each direction."""
    return sum(index.bit_count() for index in indices.values()) % 2
