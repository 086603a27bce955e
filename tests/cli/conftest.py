"""What the tests of the command line share."""

import pytest

from tests.support.processes import VERSIONS, interpreter


@pytest.fixture(scope="module", params=VERSIONS)
def python(request: pytest.FixtureRequest) -> str:
    return interpreter(request.param)
