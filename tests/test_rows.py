"""Rows, tables, and what a row makes of a machine's state."""

import pickle

import pytest

from jitunwind.rows import (
    SAME_VALUE,
    UNDEFINED,
    CfaRule,
    InRegister,
    Row,
    SameValue,
    SavedAt,
    Undefined,
    Unknown,
    UnwindTable,
    cfa_of,
    evaluate,
)

SP, RA, A, B, C = 7, 16, 3, 6, 12
ROW = Row(CfaRule(SP, 16), ((A, SAME_VALUE), (B, SavedAt(-16)), (C, InRegister(A)), (RA, SavedAt(-8))))
MEMORY = {0x1000: 11, 0x1008: 22}


def test_each_rule_gives_the_callers_register():
    assert evaluate(ROW, {SP: 0x1000, A: 5, B: 6, C: 7}, MEMORY.__getitem__, SP) == {
        SP: 0x1010,
        A: 5,
        B: 11,
        C: 5,
        RA: 22,
    }


def test_rules_of_other_kinds_are_others():
    assert SavedAt(8) == SavedAt(8) != InRegister(8)
    assert InRegister(8) != SavedAt(8)
    assert SameValue() == SAME_VALUE != UNDEFINED == Undefined()
    assert len({SavedAt(8), InRegister(8), SAME_VALUE, UNDEFINED}) == 4


def test_rows_come_back_from_other_processes_as_they_were():
    row = pickle.loads(pickle.dumps(Row(ROW.cfa, ((A, SAME_VALUE), (B, UNDEFINED)))))
    assert (row.rule(A), row.rule(B)) == (SAME_VALUE, UNDEFINED)


def test_undefined_registers_are_left_out():
    row = Row(CfaRule(SP, 8), ((A, UNDEFINED),))
    assert evaluate(row, {SP: 0x1000, A: 5, B: 6}, MEMORY.__getitem__, SP) == {SP: 0x1008}


def test_registers_that_the_state_lacks_are_left_out():
    assert evaluate(ROW, {SP: 0x1000}, MEMORY.__getitem__, SP) == {SP: 0x1010, B: 11, RA: 22}


def test_addresses_wrap_round_at_64_bits():
    asked = []
    row = Row(CfaRule(SP, 16), ((A, SavedAt(-24)), (B, SavedAt(8))))
    found = evaluate(row, {SP: (1 << 64) - 8}, lambda address: asked.append(address) or 1, SP)
    assert found[SP] == 8 == cfa_of(row, {SP: (1 << 64) - 8})
    assert asked == [(1 << 64) - 16, 16]


def test_memory_that_cannot_be_read_passes_its_exception_through():
    with pytest.raises(KeyError, match="8192"):
        evaluate(ROW, {SP: 0x2000}, MEMORY.__getitem__, SP)


def test_a_state_without_the_cfas_register_is_an_error():
    with pytest.raises(KeyError):
        evaluate(ROW, {A: 1}, MEMORY.__getitem__, SP)


def test_a_register_without_a_rule_is_undefined():
    assert ROW.rule(B) == SavedAt(-16)
    assert ROW.rule(15) == UNDEFINED


TABLE = UnwindTable(10, [0, 4, 6], [ROW, Unknown("data"), ROW])


def test_a_row_holds_up_to_the_next():
    assert [isinstance(TABLE.at(offset), Unknown) for offset in range(10)] == [
        *[False] * 4,
        True,
        True,
        *[False] * 4,
    ]


@pytest.mark.parametrize("offset", [-1, 10, 1 << 64])
def test_outside_the_region_nothing_is_known(offset):
    answer = TABLE.at(offset)
    assert isinstance(answer, Unknown)
    assert "outside the region of 0xa bytes" in answer.reason


def test_an_empty_table_answers_too():
    assert isinstance(UnwindTable(0, [], []).at(0), Unknown)


def test_an_empty_table_has_no_spans():
    assert list(UnwindTable(0, [], []).spans()) == []


def test_spans_cover_the_region():
    assert list(TABLE.spans()) == [(0, 4, ROW), (4, 6, Unknown("data")), (6, 10, ROW)]


def test_a_return_address_behind_the_last_code_has_the_row_of_its_call():
    row, data = Row(CfaRule(7, 8), ()), Unknown("data")
    table = UnwindTable(8, [0, 4], [row, data])
    assert table.at_return_address(3) is row
    assert table.at_return_address(4) is row
    assert table.at_return_address(5) == data
    assert table.at(4) == data


class TestPart:
    """GIVEN a table of 30 bytes with three rows, THEN a part has the rows that hold in it, from its own start on."""

    TABLE = UnwindTable(30, [0, 10, 20], [ROW, Unknown("data"), ROW])

    @pytest.mark.parametrize(
        ("start", "end", "offsets", "indexes"),
        [
            (0, 30, [0, 10, 20], [0, 1, 2]),
            (0, 10, [0], [0]),
            (10, 20, [0], [1]),
            (5, 25, [0, 5, 15], [0, 1, 2]),
            (12, 13, [0], [1]),
            (29, 30, [0], [2]),
        ],
    )
    def test_rows_of_a_part(self, start: int, end: int, offsets: list[int], indexes: list[int]) -> None:
        part = self.TABLE.part(start, end)
        assert part == UnwindTable(end - start, offsets, [self.TABLE.rows[index] for index in indexes])
        assert all(part.at(offset) == self.TABLE.at(start + offset) for offset in range(end - start))
