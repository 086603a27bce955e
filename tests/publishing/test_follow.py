"""What following does to the process that it follows."""

import sys
from collections.abc import Iterator

import pytest

from jitunwind.jits.cpython.inside.follow import _short_turns


@pytest.fixture(autouse=True)
def _interval() -> Iterator[None]:
    before = sys.getswitchinterval()
    yield
    sys.setswitchinterval(before)


def test_threads_have_short_turns_for_as_long_as_something_is_imported() -> None:
    before = sys.getswitchinterval()
    with _short_turns():
        assert sys.getswitchinterval() < before / 5
    assert sys.getswitchinterval() == before


@pytest.mark.parametrize("own", [1e-6, 0.25])
def test_what_a_program_has_set_itself_stays(own: float) -> None:
    with _short_turns():
        sys.setswitchinterval(own)
    assert sys.getswitchinterval() == own
    with _short_turns():
        assert sys.getswitchinterval() <= own
    assert sys.getswitchinterval() == own
