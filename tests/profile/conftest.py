"""Fixtures of the live tests: the interpreters, once per version."""

from tests.stacks.conftest import python  # noqa: F401
