"""`jitunwind audit` on real interpreters: what it finds, and what it leaves behind."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.live import PROGRAMS, Interpreter, running

JITUNWIND = [sys.executable, "-m", "jitunwind"]
ATTEMPTS = 20
"""Of what meets a signal by chance: one comes every 4 ms of processor time, and a fast machine needs few."""
STEPS = 6000
LIMIT = 120
PUBLISHED = ("exceptions", "recursion", "side_exits")
KINDS = (
    *("loops", "calls", "generators", "exceptions", "attributes", "floats", "side_exits", "recursion"),
    *("threads", "strings", "throws", "interpreters", "audit_signals", "audit_replaced"),
)


def audit(*arguments: object, expected: tuple[int, ...] = (0, 1)) -> dict[str, Any]:
    """The report of an audit, as JSON."""
    command = [*JITUNWIND, "audit", "--json", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, stdin=subprocess.DEVNULL)
    assert done.returncode in expected, f"{done.returncode}: {done.stderr[-2000:]}"
    report: dict[str, Any] = json.loads(done.stdout)
    return report | {"said": done.stderr, "status": done.returncode}


def of_program(
    python: Interpreter, program: str, *options: object, arguments: tuple[object, ...] = ()
) -> Any:
    return audit(*options, "--", python.python, PROGRAMS / f"{program}.py", *arguments)


def assert_exact(report: dict[str, Any], least: int) -> None:
    recovered = report["tables"]["recovered"]
    assert recovered["instructions"] >= least, report["said"]
    assert (recovered["wrong"], recovered["unknown"]) == (0, 0), report["examples"] or recovered["reasons"]
    assert report["counts"]["bad_returns"] == 0


@pytest.mark.parametrize("program", PUBLISHED)
def test_what_a_process_publishes_of_itself_is_exact(python: Interpreter, program: str) -> None:
    with running(python, program, published=True) as started:
        report = audit("--table", "published", "--table", "recovered", "--steps", STEPS, started.pid)
    assert_exact(report, STEPS)
    published = report["tables"]["published"]
    assert published["instructions"] == STEPS
    assert (published["wrong"], published["unknown"]) == (0, 0), report["examples"] or published["reasons"]
    assert report["status"] == 0


@pytest.mark.parametrize("program", KINDS)
def test_recovered_rows_are_exact_and_published_ones_are_not(python: Interpreter, program: str) -> None:
    report = of_program(python, program, "--steps", STEPS)
    assert_exact(report, STEPS)
    published = report["tables"]["published"]
    if python.minor == "3.14":
        assert published["unknown"] == published["instructions"]
        assert list(published["reasons"]) == ["the process has published nothing for this code"]
    else:
        assert published["wrong"] >= 0.99 * published["instructions"]
        for register in ("CFA", "RA", "rbp"):
            assert published["registers"][register]["wrong"] == 0
    assert report["status"] == 1
    assert 0.5 * STEPS < report["counts"]["recorded"] <= STEPS
    assert sum(region["tables"]["recovered"]["instructions"] for region in report["regions"]) == STEPS


def test_the_kernel_steps_each_instruction_where_that_is_wanted(python: Interpreter) -> None:
    report = of_program(python, "side_exits", "--single-step", "--steps", STEPS, "--table", "recovered")
    assert_exact(report, STEPS)
    assert report["counts"]["recorded"] == 0


@pytest.mark.parametrize("options", [("--steps", 100_000), ("--single-step", "--steps", 20_000)], ids=str)
def test_signals_come_through_while_it_steps(python: Interpreter, options: tuple[object, ...]) -> None:
    for _ in range(ATTEMPTS):
        report = of_program(python, "audit_signals", *options, "--table", "recovered")
        assert_exact(report, int(str(options[-1])))
        if report["counts"]["signals"]:
            return
    pytest.fail("no signal met a step")


def test_threads_that_come_and_go_and_children_are_unharmed(python: Interpreter) -> None:
    report = of_program(python, "audit_lives", "--table", "recovered")
    assert_exact(report, 1000)
    assert "all is well" in report["said"], report["said"]
    assert report["counts"]["threads"] > 1


def test_a_program_that_becomes_another_is_followed(python: Interpreter) -> None:
    report = of_program(python, "audit_lives", "--table", "recovered", arguments=("exec",))
    assert_exact(report, 1000)
    assert report["counts"]["executed"] == 1
    assert report["said"].count("all is well") == 2, report["said"]


def extension(python: Interpreter, folder: Path, compiler: str, source: str) -> Path:
    """The folder with a CPython extension, built from tests/support/SOURCE."""
    path = Path(__file__).parents[1] / "support" / source
    command = [compiler, "-shared", "-fPIC", "-O2", f"-I{python.include}", f"-I{Path(python.include).parent}"]
    command += ["-static-libstdc++"] if path.suffix == ".cc" else []  # the interpreter's folder may have none
    done = subprocess.run([*command, "-o", folder / f"{path.stem}.so", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_activations_that_a_longjmp_ends_are_let_go(python: Interpreter, tmp_path: Path) -> None:
    leaps = extension(python, tmp_path, "gcc", "leaps.c")
    report = of_program(python, "audit_leaps", "--table", "recovered", arguments=(leaps,))
    assert_exact(report, 1000)
    assert report["counts"]["left"], "no activation was left"
    assert "all is well" in report["said"], report["said"]


def test_cpp_exceptions_go_through_jit_code_as_far_as_they_would_without_the_audit(
    python: Interpreter, tmp_path: Path
) -> None:
    """3.14 tells libgcc nothing: there the exception ends the program, audited or not."""
    thrown = extension(python, tmp_path, "g++", "thrown.cc")
    report = of_program(python, "audit_thrown", "--table", "recovered", arguments=(thrown,))
    assert_exact(report, 1000)
    assert "now it throws" in report["said"]
    if python.minor == "3.14":
        assert "terminate called after throwing" in report["said"]
        assert "the program ended with the signal SIGABRT" in report["said"]
    else:
        assert "all is well" in report["said"], report["said"]
        assert report["counts"]["left"], "no activation was left"


def fields(pid: int) -> dict[str, str]:
    text = Path(f"/proc/{pid}/status").read_text()
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def test_a_running_process_is_left_as_it_was(python: Interpreter) -> None:
    with running(python, "threads") as started:
        before = fields(started.pid)
        report = audit("--table", "recovered", "--steps", STEPS, started.pid)
        assert_exact(report, STEPS)
        after = fields(started.pid)
        assert after["TracerPid"] == "0"
        assert after["State"][0] in "RS"
        assert after["Cpus_allowed"] == before["Cpus_allowed"]
        assert report["counts"]["recorded"]
        assert not copies_in(started.pid), "the copies are there still"
        assert_runs(started.pid)
        assert_exact(audit("--table", "recovered", "--steps", STEPS, started.pid), STEPS)


def copies_in(pid: int) -> bool:
    """Whether code that records itself lies in the process."""
    return " rwxp " in Path(f"/proc/{pid}/maps").read_text()


def assert_runs(pid: int) -> None:
    """It runs on for a while: a breakpoint that was left would end it."""
    ticks, deadline = cpu_ticks(pid), time.monotonic() + 60
    while cpu_ticks(pid) < ticks + 20:
        assert time.monotonic() < deadline, "it does not run any more"


def cpu_ticks(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11])


def test_an_interrupt_gives_the_report_so_far(python: Interpreter, tmp_path: Path) -> None:
    with running(python, "loops") as started:
        command = [*JITUNWIND, "audit", "--json", "--table", "recovered", str(started.pid)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 60
        while not copies_in(started.pid):  # made when it begins to step
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 130
        assert_exact(json.loads(said) | {"said": ""}, 1)
        assert fields(started.pid)["TracerPid"] == "0"
        assert_runs(started.pid)


def test_ignored_signals_stay_ignored(python: Interpreter) -> None:
    """As nohup(1) and a shell's background jobs expect it."""
    ignored = (signal.SIGINT, signal.SIGTERM)

    def ignore() -> None:
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)

    with running(python, "loops") as started:
        command = [*JITUNWIND, "audit", "--table", "recovered", "--steps", str(STEPS), str(started.pid)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=ignore)
        deadline = time.monotonic() + 60
        while fields(started.pid)["TracerPid"] == "0":
            assert time.monotonic() < deadline
        for number in ignored:
            process.send_signal(number)
        assert "instructions stepped" in process.communicate(timeout=60)[0]
        assert process.returncode == 0
        assert_runs(started.pid)


def test_reports_for_machines(python: Interpreter, tmp_path: Path) -> None:
    from xml.etree import ElementTree

    markdown, junit = tmp_path / "audit.md", tmp_path / "audit.xml"
    of_program(python, "loops", "--steps", 2000, "--markdown", markdown, "--junit", junit)
    assert "| recovered | 2,000 | 2,000 | 0 | 0 | 100 %" in markdown.read_text()
    suites = {suite.get("name"): suite for suite in ElementTree.parse(junit).getroot()}
    assert suites["recovered"].get("failures") == "0"
    assert int(suites["published"].get("failures", 0)) > 0


def test_the_text_says_what_is_wrong(python: Interpreter) -> None:
    command = [*JITUNWIND, "audit", "--steps", "2000", "--", python.python, str(PROGRAMS / "loops.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 1, done.stderr
    assert "2,000 instructions stepped" in done.stdout
    assert "\x1b" not in done.stdout
    assert "recovered: CFA, return address and callee-saved registers are right at all 2,000" in done.stdout
    if python.minor == "3.14":
        assert "published: says nothing of the caller at any of 2,000 instructions" in done.stdout
        assert "first wrong at" not in done.stdout
    else:
        assert "published: CFA, return address and rbp are right at every instruction; " in done.stdout
        assert done.stdout.count("published, first wrong at ") == 1
    assert not re.search(r"\b1 [a-z ]+s\b", done.stdout), done.stdout


def test_every_damage_that_changes_an_answer_is_found(python: Interpreter) -> None:
    """A check that cannot fail proves nothing: tests/support/mutations.py damages 500 rows of each table."""
    script = Path(__file__).parents[1] / "support/mutations.py"
    command = [sys.executable, script, python.python, PROGRAMS / "side_exits.py", "4000", "500"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    print(f"{python.minor}: {found}")
    assert found["mutations"] >= 500 * found["regions"] >= 500
    assert found["changing"] >= 0.2 * found["mutations"]
    assert not found["missed"]
    assert not found["false_alarms"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--", "/nonexistent"], "cannot be run: No such file"),
        (["999999999"], "no process"),
        (["--table", "nowhere", "--", "true"], "neither recovered nor published, nor a file"),
        (["--", "true"], "true: no instruction of JIT code was judged in "),
    ],
)
def test_what_cannot_be_audited(arguments: list[str], message: str) -> None:
    done = subprocess.run([*JITUNWIND, "audit", *arguments], capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 2, done
    assert message in done.stderr
    assert "Traceback" not in done.stderr
