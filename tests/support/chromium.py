"""A page of headless Chromium, one for a module's tests."""

from collections.abc import Iterator

import pytest

from tools.browser import NoBrowserError, Page, page


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    try:
        with page() as found:
            yield found
    except NoBrowserError as error:
        pytest.skip(str(error))
