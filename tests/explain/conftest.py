"""The browser, once per module."""

from tests.support.chromium import browser  # noqa: F401
