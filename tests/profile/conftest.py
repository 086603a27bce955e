"""Fixtures: the interpreters, once per version, and the browser."""

from tests.stacks.conftest import python  # noqa: F401
from tests.support.chromium import browser  # noqa: F401
