"""Functions judged in processes: each is reported once, whatever happens to a process or however long one takes."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from jitunwind.check import workers
from jitunwind.check.functions import Program
from jitunwind.check.rounds import in_turn, judge_all
from jitunwind.check.workers import DIED, TOOK_LONG, TOOK_MEMORY, TookTooLong, Workers, time_limit
from tests.support.compiled import compiled, needs_gcc

pytestmark = needs_gcc
MANY = 150
SOURCE = "int out(int);" + "".join(f"int f{n}(int a) {{ return out(a) + out({n}); }}" for n in range(MANY))
BAD = 120
"""The function that makes trouble: one of those that a child judges, not this process."""


class Troubled(Program):
    """A program of which one function does something when it is judged."""

    trouble: Callable[[], None]

    def judge(self, index, carried, never):
        if index == BAD:
            self.trouble()
        return super().judge(index, carried, never)


def busy() -> None:
    while True:
        pass


def deaf() -> None:
    signal.signal(signal.SIGPROF, signal.SIG_IGN)
    busy()


def fat() -> None:
    raise MemoryError


@pytest.fixture
def program(tmp_path: Path) -> Troubled:
    return Troubled(compiled(tmp_path / "a.o", SOURCE))


def children() -> set[int]:
    return set(map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()))


@pytest.mark.parametrize("processes", [1, 2, 5])
def test_reports_are_those_of_one_process(program: Troubled, processes: int) -> None:
    program.trouble = lambda: None
    alone = judge_all(program, in_turn(program))
    before = children()
    with Workers(program, processes) as several:
        together = judge_all(program, several.run)
        assert len(children() - before) <= processes
    assert children() == before
    assert together.keys() == alone.keys()
    assert all(together[i].comparison.exact == alone[i].comparison.exact for i in alone)


@pytest.mark.parametrize(
    ("trouble", "reason", "grace"),
    [(busy, TOOK_LONG, 1000), (fat, TOOK_MEMORY, 1000), (lambda: os._exit(3), DIED, 1000), (deaf, DIED, 10)],
    ids=["slow", "large", "dies", "hangs"],
)
def test_one_function_that_makes_trouble_is_unknown_and_no_other(
    program: Troubled, monkeypatch: pytest.MonkeyPatch, trouble: Callable[[], None], reason: str, grace: int
) -> None:
    """On a busy machine 0.3 s of processor time take long: only what hangs is ended by the clock."""
    monkeypatch.setattr(workers, "SECONDS", 0.3)
    monkeypatch.setattr(workers, "_GRACE", grace)
    program.trouble = trouble
    with Workers(program, 2) as several:
        reports = judge_all(program, several.run)
    assert len(reports) == len(program.fdes) >= MANY
    assert set(reports[BAD].comparison.unknown) == {reason}
    assert all(report.comparison.exact for index, report in reports.items() if index != BAD)


def test_leaving_ends_the_processes_in_the_middle_of_their_work(program: Troubled) -> None:
    program.trouble = busy
    before = children()
    with Workers(program, 2) as several:
        jobs = [(index, {}) for index in range(len(program.fdes))]
        assert any(report.index > BAD for report in several.run(jobs, program.never))
        assert children() > before
    assert children() == before


def test_a_time_limit_leaves_the_signal_as_it_was() -> None:
    before = signal.getsignal(signal.SIGPROF)
    with pytest.raises(TookTooLong), time_limit(0.01):
        busy()
    assert signal.getsignal(signal.SIGPROF) is before
    assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)
