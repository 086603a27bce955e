"""The table on a terminal, and the shares in it."""

import pytest

from jitunwind.profile.labels import WAITING, frame_of, label
from jitunwind.profile.recording import Counts, Frame, Kind, Recording
from jitunwind.profile.shares import Shares
from jitunwind.profile.table import lines, live_lines
from jitunwind.profile.trust import doubts, error
from tests.profile.made import HOSTILE, MAIN, WEIGHT, WRITE, origin, recording

BOTH = 2 * WEIGHT + 2
"""The weight of all samples of `recording`."""


def test_shares_say_how_functions_ran() -> None:
    made, shares = recording(), Shares()
    shares.add(made)
    assert shares.weight == BOTH
    assert shares.kinds == {Kind.PYTHON: 8, Kind.JIT: 16, Kind.NATIVE: 6, Kind.KERNEL: 2, Kind.WAITING: 0}
    assert shares.from_jit == 4
    hot, cold, module = shares.by_own()
    assert (hot.name, hot.total, hot.own, hot.from_jit, hot.in_c) == ("hot", 20, 20, 20, 4)
    assert (cold.name, cold.own, cold.from_jit, cold.in_c) == (HOSTILE, 10, 0, 2)
    assert (module.total, module.own) == (30, 0)


def test_lines_are_functions_of_their_own_in_a_table_if_wanted() -> None:
    shares = Shares(with_lines=True)
    shares.add(recording())
    found = {(each.name, each.line): each.own for each in shares.by_own()}
    assert (found["hot", 3], found["hot", 4]) == (14, 6)


def rows_of(shares: Shares, width: int | None) -> list[str]:
    return list(lines(shares, origin(), Counts(moments=40), lambda text, **style: text, width, 20))


def test_the_columns_of_a_table_add_up_to_the_summary() -> None:
    shares = Shares()
    shares.add(recording())
    said = rows_of(shares, None)
    assert "JIT code 50.0 %   interpreter 25.0 %   C 18.8 %   kernel 6.2 %" in said[3]
    assert said[5] == "  total     own   =   JIT + interp. +     C  function"
    assert said[6] == " 62.5 %  62.5 %    50.0 %            12.5 %  hot  hot.py"
    assert said[8].split() == ["93.8", "%", "<module>", "hot.py"]


@pytest.mark.parametrize("width", [20, 30, 40, 61, 80])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    shares = Shares()
    shares.add(recording())
    said = rows_of(shares, width)
    assert max(map(len, said)) <= width
    assert {part for line in said for part in line.split()} >= {"hot", "C", "18.8", "<module>"}
    for height in (6, 8, 12, 24):
        live = [
            *live_lines(shares, shares, origin(), Counts(), lambda text, **style: text, width, height),
        ]
        assert len(live) <= height
        assert any("hot" in line for line in live)


def test_the_live_table_has_what_ran_now_with_its_share_so_far() -> None:
    now, whole = Shares(), Shares()
    for shares in (now, whole):
        shares.add(recording())
    other = Recording(origin())
    stack = other.stack((other.frame(Frame(Kind.PYTHON, "earlier", "/tmp/hot.py")),))
    other.add(0.0, other.thread(1, "main"), stack, BOTH)
    whole.add(other)
    said = list(live_lines(now, whole, origin(), Counts(), lambda text, **style: text, 80, 24))
    found = {line.split()[-2]: line for line in said if line.endswith("hot.py")}
    assert found["hot"].split()[:6] == ["31.2", "%", "62.5", "%", "62.5", "%"]
    assert found["earlier"].split() == ["50.0", "%", "earlier", "hot.py"]


def test_a_program_without_python_has_its_functions_of_c() -> None:
    made, shares = Recording(origin()), Shares()
    thread = made.thread(1, "sh")
    for frames, weight in (((MAIN,), 1), ((MAIN, WRITE), 3), ((MAIN, Frame(Kind.WAITING, WAITING)), 2)):
        made.add(0.0, thread, made.stack(tuple(map(made.frame, frames))), weight)
    shares.add(made)
    assert [(each.name, each.total, each.own) for each in shares.by_own()] == [
        (MAIN.name, 6, 3),
        (WRITE.name, 3, 3),
    ]
    assert rows_of(shares, None)[5].endswith("function of C")
    assert frame_of(label(Frame(Kind.WAITING, WAITING))) == Frame(Kind.WAITING, WAITING)


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        (Counts(moments=100, missed=5, late=40), ""),
        (Counts(moments=40, missed=24), "40 of 100 samples a second were taken"),
        (Counts(moments=40, late=30), "most samples came late"),
        (Counts(moments=40, lost=10), "20 % of the samples were lost"),
    ],
)
def test_what_makes_shares_doubtful_is_said(counts: Counts, said: str) -> None:
    found = list(doubts(origin(), counts, 40))
    assert len(found) == bool(said)
    assert not said or said in found[0]
    assert error(400) == pytest.approx(4.9)
