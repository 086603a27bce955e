"""Each reader does what docs/readers.md says, and our encoder writes only what all of them do alike."""

import platform
import shutil

import pytest
from hypothesis import given, settings

from jitunwind.arch.x86_64.registers import X86_64
from jitunwind.dwarf.encode import eh_frame
from jitunwind.rows import UnwindTable
from tests.dwarf.test_encode import SECTION, regions
from tests.readers.cases import CASES
from tests.readers.page import lists, table
from tests.readers.readers import READERS, REPOSITORY, Asking, Workshop
from tests.readers.recorded import DIFFERENT, TOLERATED, portable, recorded, uses_in, words

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64" or shutil.which("gcc") is None,
    reason="the cases are x86_64 code: needs gcc",
)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("readers"))


@pytest.mark.parametrize(
    ("reader", "release", "ask"),
    [
        pytest.param(reader.name, version, ask, id=f"{reader.name} {version}".strip())
        for reader in READERS
        for version, ask in reader.versions.items()
    ],
)
def test_a_reader_does_what_the_page_says(reader: str, release: str, ask: Asking, workshop: Workshop) -> None:
    reading = ask(workshop)
    upstream = reading.version.rpartition(":")[2]  # without Debian's epoch
    assert upstream.startswith(release), f"{reader} is {upstream} now: see what it does, and record it"
    found = {case.name: words(reading.answers[case.name], case.standard) for case in CASES}
    assert found == {case.name: recorded(case.name, reader, release) for case in CASES}


def test_what_is_recorded_is_about_cases_and_readers_that_exist() -> None:
    names = {reader.name for reader in READERS}
    names |= {f"{reader.name} {version}" for reader in READERS for version in reader.versions}
    assert set(DIFFERENT) <= {case.name for case in CASES}
    assert {name for said in DIFFERENT.values() for name in said} <= names


def test_the_page_has_what_is_recorded() -> None:
    page = (REPOSITORY / "docs/readers.md").read_text(encoding="utf-8")
    assert table(recorded) in page
    assert lists() in page


@settings(max_examples=30, deadline=None)
@given(tables=regions())
def test_the_encoder_writes_what_all_readers_do_alike(tables: list[tuple[int, UnwindTable]]) -> None:
    assert uses_in(eh_frame(X86_64, tables, SECTION), SECTION) <= portable() | set(TOLERATED)
