"""Every instruction, every register: single-steps real JIT code and judges each unwound caller.

The ground truth is what `tests/support/stepper.py` records at the shim's first instruction. The same harness
runs on GDB without the plugin, too: it must find 3.15's wrong registers and 3.14's broken chain, or it
proves nothing.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support import THOROUGH
from tests.support.live import (
    PUBLISHED_SETUPS,
    REPOSITORY,
    VERSIONS,
    Setup,
    interpreter,
    run_gdb,
    running,
    starting,
)

PROGRAMS = (
    *("loops", "exceptions", "side_exits", "recursion", "threads", "strings"),
    *("calls", "generators", "attributes", "floats"),
)
PLUGIN, NOTHING = Setup(plugin=True), Setup()
STEPPER = REPOSITORY / "tests/support/stepper.py"
STEPS_PER_PROGRAM = 2100 if THOROUGH else 600
LEAST_STEPS = 20_000 if THOROUGH else 5_000
"""Of each version, over all programs, in executors' bodies."""
STEPS_WITHOUT = 600 if THOROUGH else 300
PROGRAMS_WITHOUT = ("loops", "recursion")
STEPS_PUBLISHED = 1000 if THOROUGH else 300
PROGRAMS_PUBLISHED = ("calls", "exceptions", "side_exits", "recursion")
"""Of those whose processes publish themselves; `jitunwind audit` steps through more."""
CHAIN = ("CFA", "RA")
KEPT = ("rbx", "rbp", "r12", "r13", "r14", "r15")

Report = dict[str, Any]
Reports = dict[tuple[str, Setup], Report]
Counts = dict[str, dict[str, int]]


def step(version: str, program: str, output: Path, budget: int, setup: Setup) -> Report:
    """Step through one program; its report."""
    python = interpreter(version)
    config = {
        "output": str(output),
        "shim_in_region": python.shim_in_region,
        "budget": budget,
        "patience": 250,
        "seconds": 900,
        "seed": 1,
    }
    run = ["-ex", f"python import runpy; runpy.run_path({str(STEPPER)!r}, {{'CONFIG': {config!r}}})"]
    if setup.from_start:
        command = [*starting(python), *run, "--args", *python.command(program, published=True)]
        said = run_gdb(setup.command(python, *command), limit=1000)
    else:
        with running(python, program, published=setup.published) as started:
            command = setup.command(python, "-p", str(started.pid), *run)
            said = run_gdb(command, check=setup != NOTHING, limit=1000)
    assert output.exists(), f"the stepper left no report:\n{said}"
    report: Report = json.loads(output.read_text())
    return report


def step_all(version: str, folder: Path) -> Reports:
    jobs = [(program, STEPS_PER_PROGRAM, PLUGIN) for program in PROGRAMS]
    jobs += [(program, STEPS_WITHOUT, NOTHING) for program in PROGRAMS_WITHOUT]
    return {
        (program, setup): step(version, program, folder / f"{version}-{program}-{setup}.json", budget, setup)
        for program, budget, setup in jobs
    }


@pytest.fixture(scope="module", params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def reports(version: str, tmp_path_factory: pytest.TempPathFactory) -> Reports:
    """Those of one version, with the plugin and without, where nobody publishes more than CPython itself."""
    found = step_all(version, tmp_path_factory.mktemp("stepping"))
    for (program, setup), report in found.items():
        print(f"{version} {program}, {setup}: {summary(report)}")
    return found


def summary(report: Report) -> str:
    rate = report["body"] / max(report["seconds"], 0.001)
    lines = [
        f"{report['body']} instructions in bodies ({report['distinct']} distinct), {report['shim']} in shims, "
        f"{report['activations']} activations ({report['nested']} nested, {report['returns']} seen to return), "
        f"{report['jumps']} jumps into other "
        f"executors, {report['foreign']} instructions behind them, {report['threads']} threads; "
        f"{rate:.0f} instructions/s {report['stopped']}"
    ]
    for part, counts in report["counts"].items():
        lines.append(f"  {part}: " + ", ".join(f"{name} {verdicts(of)}" for name, of in counts.items()))
    return "\n".join([*lines, *report["examples"]])


def verdicts(counts: dict[str, int]) -> str:
    return f"{counts['exact']}/{counts['wrong']}/{counts['unknown']}"


def imperfect(counts: Counts) -> list[str]:
    """Those that are not exact everywhere, as register: exact/wrong/unknown."""
    return [f"{name}: {verdicts(of)}" for name, of in counts.items() if of["wrong"] or of["unknown"]]


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
def test_each_register_of_the_caller_is_exact_at_each_instruction(reports: Reports, program: str) -> None:
    assert_exact(reports[program, PLUGIN], STEPS_PER_PROGRAM)


PUBLISHED = [
    pytest.param(version, setup, program, id=f"{version}-{setup}-{program}")
    for version in VERSIONS
    for program in PROGRAMS_PUBLISHED
    for setup in PUBLISHED_SETUPS
]


@pytest.mark.parametrize(("of_version", "setup", "program"), PUBLISHED)
def test_each_register_is_exact_in_plain_gdb_where_the_process_publishes_itself(
    of_version: str, setup: Setup, program: str, tmp_path: Path
) -> None:
    report = step(of_version, program, tmp_path / "report.json", STEPS_PUBLISHED, setup)
    print(f"{of_version} {program}, {setup}: {summary(report)}")
    assert_exact(report, STEPS_PUBLISHED)


def assert_exact(report: Report, least: int) -> None:
    assert not report["stopped"], summary(report)
    assert report["body"] >= least, summary(report)
    assert not report["bad_returns"], summary(report)
    for part in ("body", "shim"):
        assert not imperfect(report["counts"][part]), summary(report)
    assert report["depths"] == {"body": {"2": report["body"]}, "shim": {"1": report["shim"]}}, (
        "frames are missing"
    )


def test_the_steps_are_many_and_of_all_kinds(reports: Reports) -> None:
    stepped = {program: report for (program, setup), report in reports.items() if setup == PLUGIN}
    assert sum(report["body"] for report in stepped.values()) >= LEAST_STEPS
    assert sum(report["distinct"] for report in stepped.values()) >= LEAST_STEPS // 10
    if not THOROUGH:  # so few steps may all be in one activation
        return
    assert stepped["side_exits"]["jumps"], "no side exit into another executor was stepped through"
    assert stepped["recursion"]["nested"], "no activation was nested in another through C"
    assert stepped["threads"]["threads"] > 1, "only one thread was stepped"
    assert sum(report["returns"] for report in stepped.values()), "no activation was followed to its return"


@pytest.mark.parametrize("program", PROGRAMS_WITHOUT)
def test_without_the_plugin_what_each_version_publishes_itself_is_found_wanting(
    reports: Reports, version: str, program: str
) -> None:
    """3.14 has no chain; 3.15 has the chain and the frame pointer, and wrong registers.

    It says that the other five are in their registers still; one may happen to be, for one activation.
    """
    report = reports[program, NOTHING]
    body = report["counts"]["body"]
    right, others, least = ((), CHAIN, 2) if version == "3.14" else ((*CHAIN, "rbp"), set(KEPT) - {"rbp"}, 4)
    for name in right:
        assert body[name]["exact"] >= 0.98 * STEPS_WITHOUT, summary(report)
    wrong = [name for name in others if body[name]["exact"] <= 0.05 * STEPS_WITHOUT]
    assert len(wrong) >= least, summary(report)
