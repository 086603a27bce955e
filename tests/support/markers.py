"""Which markers a test has (pyproject.toml says what they mean), by the fixtures and parameters that it takes.

tests/conftest.py marks each test when it is collected. Other tests carry their markers themselves: a test that starts
an interpreter or an emulator without the marker for it fails.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

FIXTURES = {
    "python": {"live"},
    "version": {"live"},
    "of_version": {"live"},
    "chain": {"live"},
    "hot_process": {"live"},
    "installed": {"live"},
    "arm": {"live", "aarch64"},
}
_running: set[str] | None = None
"""The markers of the test that runs; None between tests, and outside pytest."""


def mark(item: pytest.Item) -> None:
    """Give a test the markers of its fixtures and its parameters."""
    names = set().union(*(FIXTURES.get(fixture, ()) for fixture in getattr(item, "fixturenames", ())))
    if hasattr(item, "callspec") and any(map(_is_emulated, item.callspec.params.values())):
        names.add("aarch64")
    for name in names:
        item.add_marker(name)


def _is_emulated(parameter: Any) -> bool:
    """Of a parameter that is a machine, or has one among its parts."""
    if isinstance(parameter, tuple):
        return any(map(_is_emulated, parameter))
    return bool(getattr(parameter, "is_emulated", False))


@contextmanager
def running(item: pytest.Item) -> Iterator[None]:
    """While `item` runs, `demand` looks at its markers."""
    global _running
    _running = {marker.name for marker in item.iter_markers()}
    try:
        yield
    finally:
        _running = None


def demand(name: str) -> None:
    """Fail a test that has not that marker."""
    if _running is not None and name not in _running:
        pytest.fail(f"this test is to be marked: @pytest.mark.{name}")
