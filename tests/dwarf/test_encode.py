"""Our encoder of call frame information: hand-annotated bytes, and random tables as four readers see them."""

import ctypes
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from jitunwind.arch.machine import Machine
from jitunwind.arch.x86_64.registers import RAX, RBP, RBX, RETURN_ADDRESS, RSP, X86_64
from jitunwind.dwarf import decode
from jitunwind.dwarf.encode import TERMINATOR, eh_frame, moved
from jitunwind.elf.image import MOST_FUNCTIONS, unwind_file
from jitunwind.rows import (
    SAME_VALUE,
    UNDEFINED,
    CfaRule,
    InRegister,
    RegisterRule,
    Row,
    SavedAt,
    Unknown,
    UnwindTable,
)
from tests.support.witnesses import WITNESSES, Witness, differences

SECTION = 0x7F00_0000_0000
CODE = 0x7F00_1234_5000
GAP = Unknown("nothing is known here")
KEPT: dict[int, RegisterRule] = dict.fromkeys(X86_64.callee_saved, SAME_VALUE)


def row(register: int, offset: int, rules: dict[int, RegisterRule] | None = None) -> Row:
    """The entry state's rules, but for the CFA and `rules`."""
    every = {**KEPT, RETURN_ADDRESS: SavedAt(-8), **(rules or {})}
    return Row(CfaRule(register, offset), tuple(sorted(every.items())))


ENTRY = row(RSP, 8)
# fmt: off
CIE = bytes([
    0x24, 0, 0, 0,  # length
    0, 0, 0, 0,  # CIE ID
    1,  # version
    *b"zR\0",  # augmentation
    1,  # code alignment factor
    0x78,  # data alignment factor -8
    16,  # return address register: rip
    1,  # length of the augmentation data
    0x1C,  # DW_EH_PE_pcrel | DW_EH_PE_sdata8
    0x0C, 7, 8,  # DW_CFA_def_cfa rsp, 8
    0x08, 3,  # DW_CFA_same_value rbx
    0x08, 6,  # DW_CFA_same_value rbp
    0x08, 12,  # DW_CFA_same_value r12
    0x08, 13,  # DW_CFA_same_value r13
    0x08, 14,  # DW_CFA_same_value r14
    0x08, 15,  # DW_CFA_same_value r15
    0x90, 1,  # DW_CFA_offset rip, cfa-8
    0, 0, 0, 0, 0, 0,  # DW_CFA_nop
])
# fmt: on


def assert_instructions(rows: Sequence[Row], offsets: Sequence[int], expected: Sequence[int]) -> None:
    """The FDE of such a table has these, and DW_CFA_nops to a whole word."""
    data = eh_frame(X86_64, [(CODE, UnwindTable(1 << 33, offsets, rows))], SECTION)
    (fde,) = decode.eh_frame(data, SECTION)
    found = fde.instructions
    assert found[: len(expected)] == bytes(expected)
    assert found[len(expected) :] in [bytes(count) for count in range(8)]


class TestBytes:
    def test_a_function_that_pushes_rbp(self) -> None:
        pushed, saved = row(RSP, 16), row(RBP, 16, {RBP: SavedAt(-16)})
        table = UnwindTable(0x40, [0, 1, 4, 0x3F], [ENTRY, pushed, saved, ENTRY])
        # fmt: off
        expected = CIE + bytes([
            0x24, 0, 0, 0,  # length
            0x2C, 0, 0, 0,  # CIE pointer: 0x2c bytes back from here is offset 0
            0xD0, 0x4F, 0x34, 0x12, 0, 0, 0, 0,  # start, from its own place (0x7f0000000030)
            0x40, 0, 0, 0, 0, 0, 0, 0,  # size
            0,  # length of the augmentation data
            0x41,  # DW_CFA_advance_loc 1
            0x0A,  # DW_CFA_remember_state
            0x0E, 16,  # DW_CFA_def_cfa_offset 16
            0x43,  # DW_CFA_advance_loc 3
            0x0D, 6,  # DW_CFA_def_cfa_register rbp
            0x86, 2,  # DW_CFA_offset rbp, cfa-16
            0x7B,  # DW_CFA_advance_loc 59
            0x0B,  # DW_CFA_restore_state
            0, 0, 0, 0,  # DW_CFA_nop
        ])
        # fmt: on
        assert eh_frame(X86_64, [(CODE, table)], SECTION) == expected

    def test_a_code_address_far_below_the_section_has_its_sign(self) -> None:
        data = eh_frame(X86_64, [(0x1000, UnwindTable(1, [0], [ENTRY]))], SECTION)
        place = len(CIE) + 8
        assert int.from_bytes(data[place : place + 8], "little", signed=True) == 0x1000 - (SECTION + place)

    def test_one_cie_is_shared_and_says_what_most_regions_begin_with(self) -> None:
        other = row(RSP, 8, {RBX: UNDEFINED})
        tables = [
            (CODE + 16 * index, UnwindTable(16, [0], [first]))
            for index, first in enumerate([other, ENTRY, ENTRY])
        ]
        fdes = list(decode.eh_frame(eh_frame(X86_64, tables, SECTION), SECTION))
        assert {fde.cie.offset for fde in fdes} == {0}
        assert [fde.instructions.rstrip(b"\0") for fde in fdes] == [
            b"\x07\x03",
            b"",
            b"",
        ]  # DW_CFA_undefined rbx

    @pytest.mark.parametrize(
        ("delta", "advance"),
        [
            (0x3F, [0x7F]),  # DW_CFA_advance_loc
            (0x40, [0x02, 0x40]),  # DW_CFA_advance_loc1
            (0x100, [0x03, 0x00, 0x01]),  # DW_CFA_advance_loc2
            (0x10000, [0x04, 0x00, 0x00, 0x01, 0x00]),  # DW_CFA_advance_loc4
            (0xFFFFFFFF, [0x04, 0xFF, 0xFF, 0xFF, 0xFF]),
        ],
    )
    def test_each_advance_is_the_shortest_that_reaches(self, delta: int, advance: list[int]) -> None:
        assert_instructions([ENTRY, row(RSP, 16)], [0, delta], [*advance, 0x0E, 16])

    @pytest.mark.parametrize(
        ("following", "change"),
        [
            (row(RSP, 16), [0x0E, 16]),  # DW_CFA_def_cfa_offset
            (row(RBP, 8), [0x0D, 6]),  # DW_CFA_def_cfa_register
            (row(RBP, 16), [0x0C, 6, 16]),  # DW_CFA_def_cfa
            (row(RSP, -16), [0x13, 2]),  # DW_CFA_def_cfa_offset_sf 2 * -8
            (row(RBP, -16), [0x0D, 6, 0x13, 2]),
            (row(RSP, 8, {RBX: SavedAt(-16)}), [0x83, 2]),  # DW_CFA_offset rbx
            (row(RSP, 8, {RBX: SavedAt(16)}), [0x11, 3, 0x7E]),  # DW_CFA_offset_extended_sf rbx, -2 * -8
            (row(RSP, 8, {100: SavedAt(-16)}), [0x05, 100, 2]),  # DW_CFA_offset_extended
            (row(RSP, 8, {RBX: InRegister(RAX)}), [0x09, 3, 0]),  # DW_CFA_register
            (row(RSP, 8, {RBX: UNDEFINED}), [0x07, 3]),  # DW_CFA_undefined
            (row(RSP, 8, {RAX: SAME_VALUE}), [0x08, 0]),  # DW_CFA_same_value
        ],
    )
    def test_each_change_has_its_instruction(self, following: Row, change: list[int]) -> None:
        assert_instructions([ENTRY, following], [0, 1], [0x41, *change])

    def test_what_is_listed_no_longer_goes_back_to_unspecified(self) -> None:
        rows = [row(RSP, 8, {RAX: SavedAt(-16), 100: SAME_VALUE}), ENTRY]
        # DW_CFA_offset rax; DW_CFA_same_value r100; advance; DW_CFA_restore rax; DW_CFA_restore_extended r100
        assert_instructions(rows, [0, 1], [0x80, 2, 0x08, 100, 0x41, 0xC0, 0x06, 100])

    def test_only_same_value_is_restored(self) -> None:
        """libgcc takes DW_CFA_restore for "same value", whatever the CIE says: after it, a return address that the
        CIE has at CFA-8 led to the same frame again and again."""
        rules: dict[int, RegisterRule] = {RBX: SavedAt(-16), RETURN_ADDRESS: UNDEFINED}
        rows = [ENTRY, row(RSP, 8, rules), ENTRY]
        # advance; DW_CFA_offset rbx; DW_CFA_undefined rip; advance; DW_CFA_restore rbx; DW_CFA_offset rip
        assert_instructions(rows, [0, 1, 2], [0x41, 0x83, 2, 0x07, 16, 0x41, 0xC3, 0x90, 1])

    def test_a_callee_saved_register_that_is_not_listed_is_undefined(self) -> None:
        """Silence would mean, by the convention, that it has kept its value."""
        bare = Row(CfaRule(RSP, 8), ((RETURN_ADDRESS, SavedAt(-8)),))
        data = eh_frame(X86_64, [(CODE, UnwindTable(1, [0], [bare]))], SECTION)
        (fde,) = decode.eh_frame(data, SECTION)
        (read,) = decode.table_of(fde, X86_64.callee_saved).rows
        assert isinstance(read, Row)
        assert [read.rule(register) for register in X86_64.callee_saved] == [UNDEFINED] * 6

    def test_unaligned_offsets_get_a_cie_of_their_own(self) -> None:
        tables = [
            (CODE, UnwindTable(1, [0], [ENTRY])),
            (CODE + 16, UnwindTable(1, [0], [row(RSP, 8, {RBX: SavedAt(-17)})])),
        ]
        fdes = list(decode.eh_frame(eh_frame(X86_64, tables, SECTION), SECTION))
        assert [fde.cie.data_alignment for fde in fdes] == [-8, -1]

    def test_nothing_gives_no_bytes_and_the_terminator_ends_a_section(self) -> None:
        tables = [(CODE, UnwindTable(8, [0], [GAP])), (CODE + 8, UnwindTable(0, [0], [ENTRY]))]
        assert eh_frame(X86_64, tables, SECTION) == b""
        assert bytes(4) == TERMINATOR


class TestRanges:
    def ranges(self, table: UnwindTable) -> list[tuple[int, int]]:
        data = eh_frame(X86_64, [(CODE, table)], SECTION)
        return [(fde.start - CODE, fde.size) for fde in decode.eh_frame(data, SECTION)]

    def test_where_nothing_is_known_no_fde_says_anything(self) -> None:
        table = UnwindTable(50, [0, 10, 20, 30, 35, 40], [GAP, ENTRY, row(RSP, 16), GAP, Unknown("b"), ENTRY])
        assert self.ranges(table) == [(10, 20), (40, 10)]

    def test_a_row_that_no_advance_reaches_begins_an_fde(self) -> None:
        far = 1 << 32
        table = UnwindTable(far + 64, [0, 2, far + 2], [ENTRY, row(RSP, 16), ENTRY])
        assert self.ranges(table) == [(0, far + 2), (far + 2, 62)]

    @pytest.mark.parametrize(
        ("start", "table"),
        [
            (-1, UnwindTable(1, [0], [ENTRY])),
            ((1 << 64) - 1, UnwindTable(2, [0], [ENTRY])),
            (CODE, UnwindTable(1, [0], [row(RSP, 1 << 63)])),
            (CODE, UnwindTable(1, [0], [row(RSP, 8, {RBX: SavedAt(-(1 << 63))})])),
        ],
    )
    def test_what_is_not_64_bit_is_refused(self, start: int, table: UnwindTable) -> None:
        with pytest.raises(ValueError, match="64-bit"):
            eh_frame(X86_64, [(start, table)], SECTION)

    def test_a_register_has_no_negative_number(self) -> None:
        with pytest.raises(ValueError, match="-1 is not unsigned"):
            eh_frame(X86_64, [(CODE, UnwindTable(1, [0], [row(-1, 8)]))], SECTION)

    def test_an_object_holds_so_many_regions(self) -> None:
        tables = [(CODE, UnwindTable(0, [0], [ENTRY]))] * (MOST_FUNCTIONS + 1)
        with pytest.raises(ValueError, match="65265 regions"):
            unwind_file(Machine.X86_64, X86_64, tables, SECTION)


def test_libgcc_finds_each_region_and_stops_at_the_terminator() -> None:
    try:
        libgcc = ctypes.CDLL("libgcc_s.so.1")
    except OSError:
        pytest.skip("needs libgcc_s.so.1")
    find = libgcc._Unwind_Find_FDE
    find.restype, find.argtypes = ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_void_p)
    tables = [(0x1000, UnwindTable(64, [0, 8, 40], [ENTRY, GAP, row(RSP, 16)]))]
    behind = [(0x2000, UnwindTable(64, [0], [ENTRY]))]
    memory = (ctypes.c_uint64 * 64)()
    address = ctypes.addressof(memory)
    data = eh_frame(X86_64, tables, address) + TERMINATOR
    data += eh_frame(X86_64, behind, address + len(data)) + TERMINATOR
    ctypes.memmove(memory, data, len(data))
    libgcc.__register_frame(memory)
    try:
        bases = (ctypes.c_void_p * 3)()
        places = (0xFFF, 0x1000, 0x1007, 0x1008, 0x1027, 0x1028, 0x103F, 0x1040, 0x2000)
        found = [find(place, bases) for place in places]
    finally:
        libgcc.__deregister_frame(memory)
    first, second = address + len(CIE), address + len(CIE) + 32
    assert found == [None, first, first, None, None, second, second, None, None]


# Random tables. The registers above 16 are some to which no tool gives a name; readelf knows none above 126.

REGISTERS = st.sampled_from([*range(17), 90, 100, 117])
SMALL = st.integers(-40, 40).map(lambda words: 8 * words)
OFFSETS = SMALL | st.integers(-300, 300) | st.integers(-(1 << 63) + 1, (1 << 63) - 1)
RULES: st.SearchStrategy[RegisterRule] = (
    st.sampled_from([SAME_VALUE, UNDEFINED])
    | SMALL.map(SavedAt)
    | OFFSETS.map(SavedAt)
    | REGISTERS.map(InRegister)
)
ROWS = st.builds(
    lambda cfa, rules: Row(cfa, tuple(sorted(rules.items()))),
    st.builds(CfaRule, st.sampled_from([RSP, RBP]) | REGISTERS, SMALL | OFFSETS),
    st.dictionaries(REGISTERS, RULES, max_size=8),
)
LENGTHS = (
    st.integers(1, 70)
    | st.sampled_from([0xFF, 0x100, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 32, 1 << 40])
    | st.integers(1, 1 << 34)
)


@st.composite
def unwind_tables(draw: st.DrawFn) -> UnwindTable:
    few = draw(st.lists(ROWS, min_size=1, max_size=4))  # as in code, they come back
    lengths = draw(st.lists(LENGTHS, min_size=1, max_size=12))
    any_row = st.sampled_from([*few, *few, GAP])
    rows = draw(st.lists(any_row, min_size=len(lengths), max_size=len(lengths)))
    offsets = [sum(lengths[:index]) for index in range(len(lengths))]
    return UnwindTable(sum(lengths), offsets, rows)


@st.composite
def regions(draw: st.DrawFn) -> list[tuple[int, UnwindTable]]:
    """Tables at addresses that rise, from anywhere on."""
    at = draw(st.sampled_from([0x1000, SECTION + (1 << 30)]))
    found = []
    for table in draw(st.lists(unwind_tables(), min_size=5, max_size=40)):
        at += draw(st.integers(0, 100))
        found.append((at, table))
        at += table.size
    return found


@pytest.mark.parametrize("witness", WITNESSES, ids=lambda witness: witness.name)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tables=regions())
def test_each_reader_finds_the_rows_of_random_tables(
    witness: Witness, tables: list[tuple[int, UnwindTable]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "random.elf"
    path.write_bytes(unwind_file(Machine.X86_64, X86_64, tables, SECTION))
    assert not differences(witness, path, tables)


@settings(deadline=None)
@given(tables=regions(), distance=st.integers(-CODE, 1 << 40))
def test_what_lies_anywhere_can_be_moved(tables: list[tuple[int, UnwindTable]], distance: int) -> None:
    elsewhere = [(start + distance, table) for start, table in tables]
    assume(all(start >= 0 for start, _ in elsewhere))
    assert moved(eh_frame(X86_64, tables), distance) == eh_frame(X86_64, elsewhere)


@given(table=unwind_tables())
def test_decoded_by_the_convention_each_register_has_the_same_rule(table: UnwindTable) -> None:
    data = eh_frame(X86_64, [(CODE, table)], SECTION)
    read = {
        fde.start - CODE: decode.table_of(fde, X86_64.callee_saved) for fde in decode.eh_frame(data, SECTION)
    }
    for start, end, meant in table.spans():
        for offset in (start, end - 1):
            found = [
                each.at(offset - begin) for begin, each in read.items() if 0 <= offset - begin < each.size
            ]
            if isinstance(meant, Unknown):
                assert not found
                continue
            (row_,) = found
            assert isinstance(row_, Row)
            assert row_.cfa == meant.cfa
            for register in {number for number, _ in (*row_.rules, *meant.rules)}:
                assert row_.rule(register) == meant.rule(register), register
