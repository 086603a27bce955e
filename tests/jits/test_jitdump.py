"""jitdump files, made here byte by byte as the kernel's specification says."""

import struct

import pytest

from jitunwind.arch.x86_64.registers import X86_64
from jitunwind.dwarf.encode import eh_frame
from jitunwind.errors import MalformedFrames
from jitunwind.jits.jitdump import frames_in
from jitunwind.rows import SAME_VALUE, CfaRule, Row, SavedAt, UnwindTable
from tests.support.jitdump import HEADER, load, move

START = 0x7F00_0000_1000
KEPT = tuple((register, SAME_VALUE) for register in X86_64.callee_saved)


def table(size: int, offset: int) -> UnwindTable:
    rows = [
        Row(CfaRule(7, 8), (*KEPT, (16, SavedAt(-8)))),
        Row(CfaRule(7, offset), (*KEPT, (16, SavedAt(-8)))),
    ]
    return UnwindTable(size, [0, 1], rows)


def frames(data: bytes) -> list[tuple[int, int, UnwindTable]]:
    return frames_in(data, X86_64)


def same(one: UnwindTable, other: UnwindTable) -> bool:
    return list(one.spans()) == list(other.spans())


def test_each_load_has_the_tables_of_the_record_before_it() -> None:
    one, two = table(33, 16), table(40, 32)
    (start, size, found), (next_start, _, next_found) = frames(
        HEADER + load(X86_64, START, one, 1) + load(X86_64, START + 64, two, 2)
    )
    assert (start, size, next_start) == (START, 33, START + 64)
    assert same(found, one)
    assert same(next_found, two)


def test_code_that_was_moved_takes_its_tables_along() -> None:
    data = HEADER + load(X86_64, START, table(33, 16), 1) + move(START, START + 0x5000, 33, 1)
    ((start, _, found),) = frames(data)
    assert start == START + 0x5000
    assert same(found, table(33, 16))


def test_what_is_loaded_later_holds() -> None:
    data = HEADER + load(X86_64, START, table(33, 16), 1) + load(X86_64, START, table(33, 48), 2)
    ((_, _, found),) = frames(data)
    assert same(found, table(33, 48))


def test_a_record_in_the_making_is_left_out() -> None:
    data = HEADER + load(X86_64, START, table(33, 16), 1) + load(X86_64, START + 64, table(40, 32), 2)
    assert [start for start, *_ in frames(data[:-1])] == [START]


def test_code_without_unwinding_information_has_no_table() -> None:
    body = struct.pack("<2I4Q", 1, 1, START, START, 4, 1) + b"f\0" + bytes(4)
    assert frames(HEADER + struct.pack("<2IQ", 0, 16 + len(body), 0) + body) == []


@pytest.mark.parametrize(
    "data",
    [b"", b"JiTD", HEADER[:-1], HEADER[::-1], HEADER + struct.pack("<2IQ", 0, 3, 0), HEADER[:4] + b"\0" * 36],
)
def test_what_is_no_jitdump_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedFrames):
        frames(data)


def test_encoded_for_the_place_where_perf_puts_it() -> None:
    """Behind the code, at the next multiple of 8."""
    elsewhere = eh_frame(X86_64, [(START, table(33, 16))], START + 33)
    body = struct.pack("<3Q", len(elsewhere), 0, 0) + elsewhere
    record = struct.pack("<2IQ", 4, 16 + len(body), 0) + body
    code = struct.pack("<2I4Q", 1, 1, START, START, 33, 1) + b"f\0" + bytes(33)
    ((start, *_),) = frames(HEADER + record + struct.pack("<2IQ", 0, 16 + len(code), 0) + code)
    assert start == START + 7
