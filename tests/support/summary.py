"""What a run of the tests has run, left out and cost: a pytest plugin that tests/conftest.py registers.

At the end of a run it prints how many cases were collected, run, skipped and deselected, and the processor time. In CI
a run that has left a case out fails, unless it was asked for a part by -k or -m.

The last report of each test carries the user and system time that this process and its children have taken from the
start of the test's set-up to the end of its teardown. So the first test of a module pays for the module's fixtures.
Children count once somebody has waited for them.
"""

import os
import resource
from collections import Counter
from collections.abc import Generator
from time import monotonic
from typing import Any

import pytest

_PROPERTY = "processor seconds"
_FILES_SHOWN = 25


def processor_seconds() -> float:
    """User and system time of this process, and of its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


class Summary:
    """Counts cases in each process of pytest-xdist, and adds them up in the process that controls the run."""

    def __init__(self) -> None:
        self.begin = monotonic()
        self.collected: set[str] = set()
        self.deselected: set[str] = set()
        self.outcomes: dict[str, str] = {}
        self.seconds: Counter[str] = Counter()
        self._started = 0.0

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self) -> None:
        self._started = processor_seconds()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if call.when == "teardown":
            report.user_properties.append((_PROPERTY, processor_seconds() - self._started))
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """pytest calls this where tests run, and where they are controlled."""
        if report.when == "call" or report.outcome != "passed":
            skipped = report.skipped and not hasattr(report, "wasxfail")
            self.outcomes[report.nodeid] = "skipped" if skipped else "run"
        for name, value in report.user_properties:
            if name == _PROPERTY:
                self.seconds[report.nodeid] = float(str(value))

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        self.collected |= {item.nodeid for item in items}

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        self.deselected |= {item.nodeid for item in items}

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        config = session.config
        if hasattr(config, "workeroutput"):
            config.workeroutput["cases"] = [sorted(self.collected), sorted(self.deselected)]
        elif (
            os.environ.get("CI")
            and self._left_out()
            and not (config.option.keyword or config.option.markexpr or config.option.collectonly)
        ):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """A process of pytest-xdist has ended."""
        collected, deselected = getattr(node, "workeroutput", {}).get("cases", ((), ()))
        self.collected |= set(collected)
        self.deselected |= set(deselected)

    def _left_out(self) -> set[str]:
        run = {nodeid for nodeid, outcome in self.outcomes.items() if outcome == "run"}
        return (self.collected | self.deselected) - run

    def pytest_terminal_summary(self, terminalreporter: Any, config: pytest.Config) -> None:
        if config.option.collectonly or not self.outcomes:
            return
        count = Counter(self.outcomes.values())
        terminalreporter.write_line(
            f"{len(self.collected | self.deselected):,} cases collected, {count['run']:,} run, "
            f"{count['skipped']:,} skipped, {len(self.deselected):,} deselected; "
            f"{self.seconds.total():,.0f} s of processor time in {monotonic() - self.begin:,.0f} s"
        )
        if config.option.costs:
            self._show_files(terminalreporter)

    def _show_files(self, terminalreporter: Any) -> None:
        """The dearest files, and the dearest case of each."""
        files: dict[str, Counter[str]] = {}
        for nodeid, seconds in self.seconds.items():
            file, _, name = nodeid.partition("::")
            files.setdefault(file, Counter())[name] = seconds
        for file in sorted(files, key=lambda each: -files[each].total())[:_FILES_SHOWN]:
            ((name, most),) = files[file].most_common(1)
            total = files[file].total()
            terminalreporter.write_line(
                f"{total:7.1f} s, {len(files[file])} cases: {file} ({most:.1f} s: {name})"
            )
