"""Fixtures of the live tests: the interpreters, once per version."""

import pytest

from tests.support.live import VERSIONS, Interpreter, interpreter
from tests.support.machines import HERE


@pytest.fixture(scope="session", params=VERSIONS)
def python(request: pytest.FixtureRequest) -> Interpreter:
    """Of a version; or, as `live.EVERYWHERE` has it, of a version and a machine."""
    of = request.param
    version, machine = of if isinstance(of, tuple) else (of, HERE)
    return interpreter(version, machine.needed())
