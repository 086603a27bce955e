"""Fixtures of the live tests: the interpreters, once per version; and the program of many situations."""

from pathlib import Path

import pytest

from tests.support.compiled import compiled
from tests.support.live import VERSIONS, Interpreter, interpreter
from tests.support.machines import HERE
from tests.support.situations import SOURCE


@pytest.fixture(scope="session", params=VERSIONS)
def python(request: pytest.FixtureRequest) -> Interpreter:
    """Of a version; or, as `live.EVERYWHERE` has it, of a version and a machine."""
    of = request.param
    version, machine = of if isinstance(of, tuple) else (of, HERE)
    return interpreter(version, machine.needed())


@pytest.fixture(scope="session")
def situations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """situations.c, compiled."""
    folder = tmp_path_factory.mktemp("situations")
    return compiled(folder / "situations", SOURCE.read_text(), "-O1 -pthread")
