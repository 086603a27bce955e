"""The tests hold on machines that differ in what tests should not depend on: some of them are run as on such a one."""

import os
import re
import signal
import subprocess
import sys

import pytest

from tests.support import noisy
from tests.support.processes import PATIENCE, ROOT

LIMIT = 5 * PATIENCE
IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE, signal.SIGUSR1)
INTERRUPTING = (
    "tests/cli/test_bt.py::test_interrupted_while_gdb_holds_the_process",
    "tests/cli/test_bt.py::test_a_reader_that_leaves_early",
    "tests/cli/test_check.py::test_an_interruption_ends_the_processes_and_prints_the_report_so_far",
    "tests/cli/test_enable.py::test_an_interruption_withdraws_the_request",
    "tests/cli/test_run.py::test_no_process_stays_between",
    "tests/live/test_audit.py::test_an_interrupt_gives_the_report_so_far",
    "tests/tools/test_interpreters.py::test_an_interrupted_run_leaves_nothing_behind",
)
READING = (
    "tests/cli/test_bt.py::test_the_whole_stack_is_shown_down_to_start",
    "tests/cli/test_gdb.py::test_the_selected_jit_frame",
    "tests/live/test_scenarios.py::test_a_core_by_the_kernel_has_the_stack_of_the_live_process",
    "tests/live/test_scenarios.py::test_each_thread_of_each_interpreter_has_a_complete_stack",
)
"""Of what GDB says."""


def ignore_signals() -> None:
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})


def passed(tests: tuple[str, ...], environment: dict[str, str], **options: object) -> int:
    """How many tests passed; none may fail."""
    names = ("JITUNWIND_THOROUGH", noisy.FOLDER)
    kept = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "-k",
            "not 3.15 and not published",
            *tests,
        ],
        env=kept | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        **options,  # type: ignore[call-overload]
    )
    assert done.returncode == 0, done.stdout
    count = re.search(r"^(\d+) passed", done.stdout, re.MULTILINE)
    assert count is not None, done.stdout
    return int(count[1])


ONE_VERSION = pytest.mark.one_version("the tests that it runs have each")


@ONE_VERSION
@pytest.mark.live
@pytest.mark.slow
@pytest.mark.timeout(2 * LIMIT)
def test_whoever_started_them_ignores_signals() -> None:
    assert passed(INTERRUPTING, {}, preexec_fn=ignore_signals) >= len(INTERRUPTING)


@ONE_VERSION
@pytest.mark.live
@pytest.mark.slow
@pytest.mark.timeout(2 * LIMIT)
def test_gdb_prints_a_warning_before_each_frame() -> None:
    assert passed(READING, {"JITUNWIND_NOISY_GDB": "1"}) >= len(READING)
