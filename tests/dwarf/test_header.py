"""`.eh_frame_hdr`, and single entries by address: against all entries of the section, on a real interpreter."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from jitunwind.arch.x86_64.registers import X86_64
from jitunwind.dwarf.decode import eh_frame, fde_at, state_at, states_of, table_of
from jitunwind.dwarf.header import FrameIndex
from jitunwind.elf.headers import PT_GNU_EH_FRAME, Headers
from jitunwind.errors import MalformedFrames
from jitunwind.rows import Row
from tests.support.live import interpreter

SAMPLES = 300
MOST_LOOKED_AT = 4


def reader(headers: Headers) -> Callable[[int, int], bytes]:
    return lambda address, size: bytes(headers.at_address(address, size))


@pytest.mark.live
@pytest.mark.one_version("tables of a file do not depend on the version")
def test_an_address_leads_to_the_entry_and_state_that_the_whole_section_has() -> None:
    headers = Headers(Path(interpreter("3.14").python).read_bytes())
    section = headers.section(".eh_frame")
    assert section is not None
    read = reader(headers)
    begin = next(each.address for each in headers.segments if each.kind == PT_GNU_EH_FRAME)
    index = FrameIndex(read, begin)
    assert (index.has_table, index.frames) == (True, section.address)
    all_fdes = list(eh_frame(bytes(headers.content(section)), section.address))
    assert index.count == len(all_fdes)
    chosen, choose = random.Random(3), random.Random(4)
    compared = 0
    for fde in chosen.sample(all_fdes, SAMPLES):
        table = table_of(fde, X86_64.same_value_by_default)
        states = states_of(fde, X86_64.same_value_by_default)
        for offset in {0, fde.size - 1, *(choose.randrange(fde.size) for _ in range(MOST_LOOKED_AT))}:
            at = index.fde_of(fde.start + offset)
            assert at is not None
            found = fde_at(read, at)
            assert (found.start, found.size, found.cie.augmentation) == (
                fde.start,
                fde.size,
                fde.cie.augmentation,
            )
            state, row = state_at(found, X86_64.same_value_by_default, offset), table.at(offset)
            assert states.at(offset) == state
            if isinstance(row, Row):
                assert (state.cfa, state.rules, state.signed) == row
                compared += 1
    assert compared > SAMPLES


@pytest.mark.live
@pytest.mark.one_version("tables of a file do not depend on the version")
def test_an_address_before_all_code_has_none() -> None:
    headers = Headers(Path(interpreter("3.14").python).read_bytes())
    begin = next(each.address for each in headers.segments if each.kind == PT_GNU_EH_FRAME)
    assert FrameIndex(reader(headers), begin).fde_of(1) is None


@pytest.mark.parametrize(
    "data",
    [
        b"\x02\x1b\x03\x3b" + bytes(8),  # another version
        b"\x01\xff\x03\x3b" + bytes(8),  # no .eh_frame
        b"\x01\x1b\x03\x3b" + bytes(4) + b"\xff" * 4,  # an absurd count
        b"\x01",
    ],
    ids=["version", "omitted", "count", "cut"],
)
def test_a_damaged_header_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedFrames):
        FrameIndex(lambda address, size: data[:size], 0x1000)


def test_a_header_without_a_table_says_so() -> None:
    data = b"\x01\x1b\xff\xff" + (0x20).to_bytes(4, "little") + bytes(4)
    index = FrameIndex(lambda address, size: data[:size], 0x1000)
    assert (index.has_table, index.frames) == (False, 0x1024)


@pytest.mark.parametrize(
    "data", [bytes(16), b"\xff" * 16, b"\x08\0\0\0\0\0\0\0" + bytes(8)], ids=["end", "huge", "cie"]
)
def test_what_is_no_entry_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedFrames):
        fde_at(lambda address, size: data[:size], 0x1000)
