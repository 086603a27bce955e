"""Lines of jumps beside code."""

from hypothesis import given
from hypothesis import strategies as some

from jitunwind.explain.jumps import MOST_LANES, Jump, in_lanes

jumps = some.sets(some.tuples(some.integers(0, 60), some.integers(0, 60)), max_size=80)


@given(jumps)
def test_lines_that_overlap_in_a_lane_lead_to_one_target(given_jumps: set[tuple[int, int]]) -> None:
    laid = in_lanes(given_jumps)
    assert sorted((jump.source, jump.target) for jump in laid) == sorted(given_jumps)
    for one in laid:
        assert one.lane is None or 0 <= one.lane < MOST_LANES
        for other in laid:
            if one.lane is not None and one.lane == other.lane and one.target != other.target:
                first, last = sorted(one[:2])
                begin, end = sorted(other[:2])
                assert last < begin or end < first, (one, other)


def test_short_jumps_are_next_to_the_code() -> None:
    assert in_lanes([(0, 100), (10, 20), (30, 20)]) == [Jump(0, 100, 1), Jump(10, 20, 0), Jump(30, 20, 0)]


def test_too_many_side_by_side_are_left_without_a_lane() -> None:
    laid = in_lanes([(each, 100 + each) for each in range(MOST_LANES + 3)])
    assert [jump.lane for jump in laid].count(None) == 3
