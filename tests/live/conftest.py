"""Fixtures of the live tests: the interpreters, once per version."""

import pytest

from tests.support.live import VERSIONS, Interpreter, interpreter


@pytest.fixture(scope="session", params=VERSIONS)
def python(request: pytest.FixtureRequest) -> Interpreter:
    return interpreter(request.param)
