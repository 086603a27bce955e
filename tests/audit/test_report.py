"""What a report says in words."""

from typing import Any

import pytest

from jitunwind.audit.report import meaning_of
from jitunwind.wording import counted, listed, runs

NAMES = ("CFA", "RA", "rbx", "rbp", "r12", "r13", "r14", "r15")


def table(instructions: int, wrong: dict[str, int], unknown: int = 0) -> dict[str, Any]:
    """A table's data: `wrong` by register, and at most at so many instructions in all."""
    registers = {
        name: {
            "exact": instructions - unknown - wrong.get(name, 0),
            "wrong": wrong.get(name, 0),
            "unknown": unknown,
        }
        for name in NAMES
    }
    bad = max(wrong.values(), default=0)
    return {
        "instructions": instructions,
        "exact": instructions - unknown - bad,
        "wrong": bad,
        "unknown": unknown,
        "registers": registers,
    }


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (
            table(2000, {}),
            "CFA, return address and callee-saved registers are right at all 2,000 instructions",
        ),
        (table(1, {}), "CFA, return address and callee-saved registers are right at the one instruction"),
        (
            table(2000, {"rbx": 1990, "r12": 2000, "r13": 2000, "r14": 2000, "r15": 1960}),
            "CFA, return address and rbp are right at every instruction; "
            "rbx and r12 to r15 are wrong at 1,960 to 2,000 of 2,000",
        ),
        (
            table(9, {"RA": 3}),
            "CFA, rbx, rbp and r12 to r15 are right at every instruction; return address is wrong at 3 of 9",
        ),
        (table(9, {}, unknown=9), "says nothing of the caller at any of 9 instructions"),
        (
            table(9, {"rbx": 2}, unknown=4),
            "rbx is wrong at 2; CFA, return address, rbx, rbp and r12 to r15 are not known at 4 of 9",
        ),
        (table(0, {}), "nothing was judged"),
    ],
)
def test_what_a_table_is_worth_is_a_sentence(data: dict[str, Any], said: str) -> None:
    assert meaning_of(data) == said


def test_numbers_agree_with_their_nouns() -> None:
    assert [counted(n, "region") for n in (0, 1, 2, 1234)] == [
        "0 regions",
        "1 region",
        "2 regions",
        "1,234 regions",
    ]
    assert counted(2, "entry", "entries") == "2 entries"
    assert [listed(words) for words in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]


def test_registers_in_a_row_are_named_by_the_first_and_the_last() -> None:
    assert runs(NAMES) == ["CFA", "RA", "rbx", "rbp", "r12 to r15"]
    assert runs(["x19", "x20", "x22", "x23", "x24", "d8"]) == ["x19", "x20", "x22 to x24", "d8"]
