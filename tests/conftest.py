"""What holds for all tests."""

import os
import tempfile
from collections import Counter
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.support import NOISY_GDB, markers, noisy
from tests.support.dispositions import default_for_children
from tests.support.summary import Summary


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--costs", action="store_true", help="show the files that take the most processor time")


def pytest_configure(config: pytest.Config) -> None:
    default_for_children()
    config.pluginmanager.register(Summary())
    if NOISY_GDB and noisy.FOLDER not in os.environ:  # those of pytest-xdist inherit it
        folder = tempfile.TemporaryDirectory(prefix="jitunwind-noisy-")
        config.add_cleanup(folder.cleanup)
        noisy.put_on_path(Path(folder.name))


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Generator[None, None, None]:
    for item in items:  # before -m selects by markers
        markers.mark(item)
    yield
    # pytest-xdist hands out file by file: those that take longest come first.
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    live = Counter(item.path for item in items if item.get_closest_marker("live"))
    items.sort(key=lambda item: (item.path not in slow, -live[item.path]))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, bool | None, bool | None]:
    with markers.running(item):
        return (yield)


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
