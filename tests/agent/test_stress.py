"""The agent under stress: threads, forks, a lack of memory; watched by the sanitizers."""

import shutil
from pathlib import Path

import pytest

from tests.support import THOROUGH
from tests.support.agent import QUIET_HEAP, harness, run
from tests.support.machines import ARM

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")

WHOLE = 100_000
EMULATED = 4_000
PUBLISHES = 100_000 if THOROUGH else 5_000
"""`make stress` has them all."""
CYCLES = 5
WALKS = 5_000
PATIENCE = 600
ADDRESS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
THREAD = ("-fsanitize=thread",)
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=1",
    # children that start threads of their own would not be followed; those of stress.c start none then
    "TSAN_OPTIONS": "die_after_fork=0:report_thread_leaks=0:halt_on_error=1",
    **QUIET_HEAP,
}

CASES = (
    "laps",
    "fill_and_empty",
    "torn_append",
    "torn_take",
    "resume_now",
    "pauses_overlap",
    "fork_while_two_pause",
    "errno_stays",
    "ends_by_itself",
    "addresses",
)


@pytest.mark.parametrize("flags", [(), ADDRESS, THREAD], ids=["plain", "address", "thread"])
def test_publishing_from_many_threads_with_forks_in_between(tmp_path: Path, flags: tuple[str, ...]) -> None:
    """GIVEN 8 threads that publish and withdraw 20,000 regions (100,000 without sanitizers), hooks that tell a
    worker of code, and forks in between, THEN each is found by libgcc right after it was published and not right
    after it was withdrawn; each child has a list of whole files with just the regions that are published; and after
    each cycle nothing is left, and no more memory is held than after the first."""
    program = harness("stress.c", tmp_path, flags)
    cycles = run(
        program, PUBLISHES if flags else WHOLE, CYCLES, environment=OPTIONS, timeout=PATIENCE
    ).splitlines()
    assert len(cycles) == CYCLES


@pytest.mark.aarch64
def test_the_same_on_aarch64(tmp_path: Path) -> None:
    """By the emulator fewer, and there its children start no threads."""
    machine = ARM.needed()
    program = harness("stress.c", tmp_path, machine=machine)
    count = EMULATED if machine.is_emulated else WHOLE
    cycles = run(program, count, 2, environment=OPTIONS, timeout=PATIENCE, machine=machine).splitlines()
    assert len(cycles) == 2


@pytest.mark.parametrize("library", ["libunwind.so.8", "libunwind.so.1"])
def test_the_same_with_a_libunwind(tmp_path: Path, library: str) -> None:
    """GIVEN nongnu libunwind or LLVM's. The first one's readers take no lock: what it was given must not be freed at
    once. The second one counts back from an FDE to its CIE without a sign."""
    program = harness("stress.c", tmp_path, ADDRESS)
    cycles = run(program, PUBLISHES // 10, 2, library, environment=OPTIONS, timeout=PATIENCE).splitlines()
    assert len(cycles) == 2


def test_all_or_none_where_memory_runs_out(tmp_path: Path) -> None:
    """GIVEN each allocation of a call fails in turn, THEN nothing of what should be published is, what was before is
    seen by debuggers again at the next call, and no memory is lost."""
    wrapped = "-Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc"
    program = harness("shortage.c", tmp_path, (*ADDRESS, wrapped))
    run(program, environment=OPTIONS, timeout=PATIENCE)


@pytest.mark.aarch64
def test_memory_that_runs_out_on_aarch64(tmp_path: Path) -> None:
    machine = ARM.needed()
    wrapped = ("-Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc",)
    program = harness("shortage.c", tmp_path, wrapped, machine=machine)
    run(program, environment=OPTIONS, timeout=PATIENCE, machine=machine)


def test_what_any_consumer_may_rely_on(tmp_path: Path) -> None:
    """GIVEN consumers of our own: one that cannot take back, and fails at each place; and one that joins late."""
    program = harness(
        "consumers.c",
        tmp_path,
        ADDRESS,
        without=("imports.c", "module.c", "consumers.c", "symbol_files.c", "llvm.c"),
    )
    run(program, environment=OPTIONS, timeout=PATIENCE)


@pytest.mark.parametrize("flags", [ADDRESS, THREAD], ids=["address", "thread"])
def test_files_for_perf(tmp_path: Path, flags: tuple[str, ...]) -> None:
    run(harness("perf.c", tmp_path, flags), environment=OPTIONS, timeout=PATIENCE)


def test_a_handler_that_walks_may_interrupt_publishing(tmp_path: Path) -> None:
    program = harness("walks.c", tmp_path)
    run(program, WALKS, environment=OPTIONS, timeout=PATIENCE / 10)


@pytest.fixture(scope="module", params=[(), THREAD], ids=["plain", "thread"])
def ring(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ring")
    return harness("ring.c", folder, request.param, without=("imports.c", "module.c", "events.c"))


@pytest.mark.parametrize("case", CASES)
def test_events(ring: Path, case: str) -> None:
    """A case of ring.c, which says what it is."""
    run(ring, case, environment=OPTIONS, timeout=PATIENCE)


@pytest.mark.aarch64
def test_events_on_aarch64(tmp_path: Path) -> None:
    machine = ARM.needed()
    program = harness("ring.c", tmp_path, without=("imports.c", "module.c", "events.c"), machine=machine)
    for case in CASES:
        run(program, case, environment=OPTIONS, timeout=PATIENCE, machine=machine)


def test_all_cases_are_run() -> None:
    source = (Path(__file__).parent / "ring.c").read_text()
    assert tuple(line.split('"')[1] for line in source.splitlines() if line.startswith('        {"')) == CASES
