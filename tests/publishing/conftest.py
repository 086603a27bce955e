"""What the tests of publishing share: each begins with nothing published in this process."""

from collections.abc import Iterator

import pytest

from jitunwind.agent.library import loaded_agent


@pytest.fixture(autouse=True)
def _nothing_published() -> Iterator[None]:
    yield
    loaded_agent().withdraw_range(0, (1 << 64) - 1)
