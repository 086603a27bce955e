"""Unwinders in a signal's handler, which a timer interrupts anywhere: does every walk through published code end?

`sampler.c` walks in the handler by glibc's backtrace(), libgcc's _Unwind_Backtrace, nongnu libunwind's unw_step and
LLVM's libunwind.
"""

from pathlib import Path

import pytest

from tests.support import THOROUGH
from tests.support.live import VERSIONS, Interpreter, case
from tests.support.machines import ARM, HERE
from tests.support.samples import PROGRAMS, WALKERS, Sampling, Verdicts, held_against_gdb, sampled

SAMPLES = 1000 if THOROUGH else 400
"""Of each program with each walker."""
LEAST, LEAST_IN_JIT_CODE = (10_000, 3_000) if THOROUGH else (300, 50)
"""Samples with each walker, and those of them that are in JIT code."""
STOPS = 30 if THOROUGH else 20
"""Samples of each program that are compared with what GDB says."""
MOST_RUNS = 8
"""Of each program, until a sample was in JIT code."""
EMULATED = Sampling(1000 if THOROUGH else 200, microseconds=4000)
"""Programs are slower under an emulator, and so are walks."""


def programs_of(python: Interpreter, walker: str, parts: int) -> tuple[str, ...]:
    """The programs; where tests are not thorough, those of one of `parts` parts of them, so that each program is
    sampled with one of the walkers on one of the versions."""
    part = WALKERS.index(walker) * len(VERSIONS) + VERSIONS.index(python.minor)
    return PROGRAMS if THOROUGH else PROGRAMS[part % parts :: parts]


@pytest.mark.parametrize(
    ("python", "walker"),
    [case(version, HERE, walker) for version in VERSIONS for walker in WALKERS],
    indirect=["python"],
)
def test_every_walk_from_an_interrupted_instruction_ends(
    python: Interpreter, tmp_path: Path, walker: str
) -> None:
    all_verdicts = Verdicts()
    programs = programs_of(python, walker, parts=len(VERSIONS) * len(WALKERS))
    for number, program in enumerate(programs):
        how = Sampling(SAMPLES, alternate=bool(number % 2))
        verdicts = sampled(python, tmp_path, walker, program, how).judged()
        print(program, verdicts)
        all_verdicts += verdicts
    assert not all_verdicts.wrong, all_verdicts
    assert all_verdicts.count - all_verdicts.late >= LEAST, all_verdicts
    assert all_verdicts.in_jit_code >= LEAST_IN_JIT_CODE, all_verdicts
    assert walker == "backtrace" or all_verdicts.held > all_verdicts.count / 3, all_verdicts


@pytest.mark.parametrize("walker", ["unwind", "libunwind"])
def test_a_walk_is_what_gdb_says_at_the_same_moment(python: Interpreter, tmp_path: Path, walker: str) -> None:
    compared = inside = 0
    programs = programs_of(python, walker, parts=len(PROGRAMS))
    for run, program in enumerate(programs * MOST_RUNS):
        if run >= len(programs) and inside:
            break  # the first samples were not all in C code
        folder = tmp_path / str(run)
        folder.mkdir()
        samples, pairs = held_against_gdb(python, folder, walker, program, Sampling(STOPS))
        for each in pairs:
            if samples.is_judged(each.sample):
                assert not each.differs, f"{program}: {each.differs}"
                compared += 1
                inside += samples.is_jit(each.sample.pc)
    print(f"{compared} compared, {inside} in JIT code")
    assert compared >= (200 if THOROUGH else STOPS / 2)
    assert inside


@pytest.mark.parametrize("walker", WALKERS)
def test_walks_through_code_that_nobody_published_do_not_end(
    python: Interpreter, tmp_path: Path, walker: str
) -> None:
    """On 3.15 those of libgcc and nongnu libunwind do: CPython has told libgcc of its frame pointers, and libunwind
    tries them. They pass over the entry into JIT code."""
    verdicts = sampled(python, tmp_path, walker, "loops", Sampling(200), published=False).judged()
    assert verdicts.in_jit_code
    if python.shim_in_region or walker == "llvm":
        assert verdicts.wrong.total() == verdicts.through_jit_code, verdicts
    else:
        assert not verdicts.wrong, verdicts


@pytest.mark.parametrize(
    ("python", "walker"),
    [case(version, ARM, walker) for version in VERSIONS for walker in ("backtrace", "unwind")],
    indirect=["python"],
)
@pytest.mark.slow
def test_every_walk_on_aarch64_ends(python: Interpreter, tmp_path: Path, walker: str) -> None:
    """Where it is emulated, by qemu-user, signals come between its translated blocks: so a walk begins at the first
    instruction of one, and not at every instruction."""
    all_verdicts = Verdicts()
    for program in programs_of(python, walker, parts=len(PROGRAMS)):
        verdicts = sampled(python, tmp_path, walker, program, EMULATED).judged()
        print(program, verdicts)
        all_verdicts += verdicts
    assert not all_verdicts.wrong, all_verdicts
    assert all_verdicts.in_jit_code, all_verdicts
    assert walker == "backtrace" or all_verdicts.held, all_verdicts
