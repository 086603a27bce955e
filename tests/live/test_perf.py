"""perf, told of JIT code by a jitdump file or a map: its shares are those that the program has by construction, every
stack is whole, and every frame of JIT code has a name."""

import math
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.support import THOROUGH, perf
from tests.support.live import PROGRAMS, VERSIONS, Interpreter, interpreter

SHARES = {"5": 50, "3": 30, "2": 20}
COURSES = ("functions", "native", "recursion", "generators", "coroutines", "threads")
LOOPS = 60 if THOROUGH else 7
POINTS = 3
DEVIATIONS = 3
MOST_CUT = 0.005
MOST_CUT_IN_C = 0.02
LEAST_SAMPLES = 100
STACK = "dwarf,8192"
"""As perf's default: it is enough for each of these courses."""


def run(python: Interpreter, kind: str, *program: object) -> list[str]:
    words = [sys.executable, "-m", "jitunwind", "run", "--perf", kind, "--python", python.python, *program]
    return list(map(str, words))


@cache
def shares(version: str, minor: str, kind: str) -> perf.Judged:
    """Recorded once for all tests."""
    python, is_map = interpreter(minor), kind == "map"
    program = run(python, kind, PROGRAMS / "shares.py", LOOPS)
    with TemporaryDirectory() as folder:
        samples = perf.recorded(
            version, program, Path(folder), "fp" if is_map else STACK, python.settings, injects=not is_map
        )
    return perf.judged(samples, Path(python.python).name, by_frame_pointers=is_map)


by_jitdump = pytest.mark.parametrize(
    ("version", "minor"),
    [
        pytest.param(version, minor, id=f"perf {version}, {minor}")
        for version in perf.PERFS
        for minor in VERSIONS
    ],
)
by_map = pytest.mark.parametrize("version", [pytest.param(each, id=f"perf {each}") for each in perf.PERFS])
no_frame_pointers = pytest.mark.one_version("3.14 has no frame pointers, so that a map gives names alone")
pytestmark = [pytest.mark.live, pytest.mark.slow]


def described(samples: list[perf.Sample]) -> str:
    """The innermost frames of samples, and how often."""
    counts = Counter(tuple(frame.symbol for frame in each.frames[:6]) for each in samples)
    return "\n".join(f"{count} × {', '.join(names)}" for names, count in counts.most_common(10))


def points_by_chance(share: float, samples: int) -> float:
    """How far off a share of so few samples may be, in points."""
    return DEVIATIONS * math.sqrt(share * (100 - share) / samples)


def check_shares(found: perf.Judged) -> None:
    """Within three points, of all courses together; of each, as far as its samples suffice for that, as they do in
    `make thorough`. (Besides, a function may run in the interpreter for a while, which perf does not name.)"""
    of_all = Counter[str]()
    for course in COURSES:
        parts = Counter(each.python.rpartition("_")[2] for each in found.of(f"{course}_"))
        assert parts.total() >= LEAST_SAMPLES, course
        for part, share in SHARES.items():
            chance = points_by_chance(share, parts.total())
            points = max(POINTS, chance) if THOROUGH else POINTS + chance
            assert 100 * parts[part] / parts.total() == pytest.approx(share, abs=points), (course, parts)
        of_all += parts
    for part, share in SHARES.items():
        assert 100 * of_all[part] / of_all.total() == pytest.approx(share, abs=POINTS), of_all


def check_names(found: perf.Judged) -> None:
    assert found.unnamed == [], described(found.unnamed)


def check_stacks(found: perf.Judged) -> None:
    """Those with JIT code on them. Others are cut in C, with the JIT off as well: at the `ret` of a function, in
    clone3, and where 3.14's compiler has a buffer on its stack that is larger than what perf copies."""
    with_jit_code = [each for each in found.cut if each.python]
    assert len(with_jit_code) <= MOST_CUT * len(found.samples), described(with_jit_code)
    assert len(found.cut) <= MOST_CUT_IN_C * len(found.all), described(found.cut)


@by_jitdump
def test_shares_are_those_that_the_program_has(version: str, minor: str) -> None:
    check_shares(shares(version, minor, "jitdump"))


@by_jitdump
def test_each_frame_of_jit_code_has_a_name(version: str, minor: str) -> None:
    check_names(shares(version, minor, "jitdump"))


@by_jitdump
def test_stacks_are_whole(version: str, minor: str) -> None:
    check_stacks(shares(version, minor, "jitdump"))


@no_frame_pointers
@by_map
def test_shares_by_a_map(version: str) -> None:
    check_shares(shares(version, "3.15", "map"))


@no_frame_pointers
@by_map
def test_names_by_a_map(version: str) -> None:
    check_names(shares(version, "3.15", "map"))


@no_frame_pointers
@by_map
def test_stacks_by_frame_pointers(version: str) -> None:
    check_stacks(shares(version, "3.15", "map"))
