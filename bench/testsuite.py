"""CPython's own test suite, with publishing off and on, test by test.

    python bench/testsuite.py [--versions 3.14 3.15] [--modules test_capi …] [--rounds N] [--startup FILE]

Each module runs in a copy of the interpreter's folders (its executable; links to the rest), in build/testsuite.
In the copy that is "on", a .pth file of site-packages switches publishing on, in the process that runs the tests
and in every Python that it starts (not in those with -S). A test differs if it comes out as it never does in the
copy that is "off"; before that is said, both are run --rounds times more. The exit status is 1 if any differs.
--startup gives Python source to run instead, at the start of each process.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from support import ENABLE, ROOT, STARTUP, VERSIONS, interpreter, is_switched_on, switch_on

MODULES = (
    *("test_capi", "test_generators", "test_exceptions", "test_threading"),
    *("test_embed", "test_fork1", "test_subprocess"),
)
RESOURCES = "cpu,subprocess,walltime"
FOLDER = ROOT / "build" / "testsuite"
OFF, ON = MODES = ("off", "on")
PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
MODULE = "(the module)"
"""The name under which a module's own outcome stands: regrtest's verdict, such as "env changed"."""
SECONDS = 900
"""For a module: regrtest then shows the stacks of all threads, and gives up."""
UNHEARD_OF = "missing"
MOST_NAMED = 3
"""Of tests that did not run, since the process had died before."""
VERDICTS = {0: PASSED, 2: "failed", 3: "env changed", 4: "no test ran", 5: "failed and run again"}
"""regrtest's exit statuses (Lib/test/libregrtest/utils.py)."""
FAILURE = re.compile(r"^(?:FAIL|ERROR): \S+ \(([\w.]+)\)", re.MULTILINE)
"""As unittest prints it, also where only a subtest failed, which junit's file then leaves nameless."""
PATHS = """
import json, os, site, sys, sysconfig
print(json.dumps({"stdlib": os.path.dirname(os.__file__), "prefix": sys.base_prefix, "version": sys.version,
                  "site": site.getsitepackages()[0]}))
"""


@dataclass
class Run:
    """One module's run: the outcome of each test, and the wall time."""

    outcomes: dict[str, str]
    seconds: float
    reasons: dict[str, str] = field(default_factory=dict)


def paths(python: Path) -> dict[str, str]:
    done = subprocess.run([python, "-I", "-c", PATHS], check=True, capture_output=True, text=True)
    answer: dict[str, str] = json.loads(done.stdout)
    return answer


def copy(python: Path, folder: Path) -> Path:
    """The interpreter in `folder`, as its own prefix and with nothing in site-packages."""
    shutil.rmtree(folder, ignore_errors=True)
    facts = paths(python)
    stdlib = Path(facts["stdlib"])
    own = folder / stdlib.relative_to(facts["prefix"])
    own.mkdir(parents=True)
    (folder / "bin").mkdir()
    shutil.copy2(python, folder / "bin")
    for entry in stdlib.iterdir():
        if entry.name not in ("site-packages", "dist-packages", "sitecustomize.py"):
            (own / entry.name).symlink_to(entry)
    return folder / "bin" / python.name


def publishing(python: Path, startup: str) -> None:
    """Has each process of that copy run `startup`."""
    place = Path(paths(python)["site"])
    switch_on(place, startup)
    (place / "publishing.pth").write_text(f"import {STARTUP}\n")
    # With -I it does not see PYTHON_JIT.
    if not is_switched_on(python, environment(), "-I") or not is_switched_on(python, environment()):
        raise SystemExit(f"publishing cannot be switched on in {python}")


def environment() -> dict[str, str]:
    """The caller's, with the JIT on and no other setting of Python's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {**kept, "PYTHON_JIT": "1"}


def outcome(case: ElementTree.Element) -> str:
    if case.get("outcome") or case.find("failure") is not None or case.find("error") is not None:
        return FAILED
    return SKIPPED if case.find("skipped") is not None else PASSED


def run(python: Path, module: str, folder: Path) -> Run:
    """Runs one module's tests; its log and its results are left in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    log, results = folder / f"{module}.log", folder / f"{module}.xml"
    results.unlink(missing_ok=True)
    options = ["-v", "-u", RESOURCES, "--fail-env-changed", f"--timeout={SECONDS}", f"--junit-xml={results}"]
    command = [python, "-m", "test", *options, module]
    began = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment(),
            cwd=folder,
            process_group=0,
        )
        status = process.wait()
    seconds = time.perf_counter() - began
    with contextlib.suppress(ProcessLookupError):  # a test that hangs leaves its children
        os.killpg(process.pid, signal.SIGKILL)
    outcomes = {MODULE: VERDICTS.get(status, f"status {status}")}
    reasons = {}
    cases = ElementTree.parse(results).iter("testcase") if results.exists() else ()
    for case in cases:
        if name := case.get("name"):
            while name in outcomes:
                name += " again"
            outcomes[name] = outcome(case)
            reasons[name] = case.findtext("skipped", "")
    for name in FAILURE.findall(log.read_text(errors="replace")):
        outcomes[name] = FAILED
    return Run(outcomes, seconds, reasons)


def seen(runs: Sequence[Run]) -> dict[str, set[str]]:
    """Each test's outcomes."""
    found = defaultdict(set)
    for name in {name for each in runs for name in each.outcomes}:
        found[name] = {each.outcomes.get(name, UNHEARD_OF) for each in runs}
    return found


def differences(off: Sequence[Run], on: Sequence[Run]) -> dict[str, tuple[set[str], set[str]]]:
    """The tests that came out with publishing as they never did without."""
    without, with_it = seen(off), seen(on)
    names = sorted({*without, *with_it})
    pairs = {name: (without.get(name, {UNHEARD_OF}), with_it.get(name, {UNHEARD_OF})) for name in names}
    return {name: (one, other) for name, (one, other) in pairs.items() if not other <= one}


def flaky(runs: Sequence[Run]) -> list[str]:
    return sorted(name for name, outcomes in seen(runs).items() if len(outcomes) > 1)


def counts(one: Run) -> str:
    tally = Counter(result for name, result in one.outcomes.items() if name != MODULE)
    return " ".join(f"{tally[each]:>6,}" for each in (PASSED, FAILED, SKIPPED))


def run_in_turns(pythons: dict[str, Path], module: str, results: Path, rounds: int) -> dict[str, list[Run]]:
    """Runs one module in each copy; so many times more while off and on differ, or if there is only one copy."""
    runs: dict[str, list[Run]] = {mode: [] for mode in pythons}
    for again in range(1 + rounds):
        for mode, python in pythons.items():
            runs[mode].append(run(python, module, results / f"{mode}-{again}"))
        if ON in runs and not differences(runs[OFF], runs[ON]):
            break
    return runs


def show(module: str, runs: dict[str, list[Run]], differing: dict[str, tuple[set[str], set[str]]]) -> None:
    """A row for the module, and a line for all that is to be known of it."""
    off = runs[OFF][0]
    columns = (f"{counts(first)} {first.seconds:>6.1f} s" for first, *_ in runs.values())
    print(f"{module:16}   {'   '.join(columns)} {len(differing):>9,}")
    tests = {name: result for name, result in off.outcomes.items() if name != MODULE}
    if set(tests.values()) == {SKIPPED}:
        print(f"    all are skipped: {', '.join(sorted(set(off.reasons.values())))}")
    if off.outcomes[MODULE] != PASSED:
        print(f"    without publishing, too, the module's verdict is: {off.outcomes[MODULE]}")
    for name in (name for name, result in tests.items() if result == FAILED):
        print(f"    fails without publishing, too: {name}")
    for name in flaky(runs[OFF]):
        print(f"    not always the same without publishing: {name}")
    not_run = [name for name, (_, with_it) in differing.items() if with_it == {UNHEARD_OF}]
    for name, (without, with_it) in differing.items():
        if name not in not_run[MOST_NAMED:]:
            print(f"    DIFFERS: {name}: off {', '.join(sorted(without))}; on {', '.join(sorted(with_it))}")
    if len(not_run) > MOST_NAMED:
        print(f"    DIFFERS: and {len(not_run) - MOST_NAMED:,} more that are missing with publishing")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--versions", nargs="+", default=VERSIONS)
    parser.add_argument("--modules", nargs="+", default=MODULES)
    parser.add_argument("--rounds", type=int, default=2, help="that many more where something differs")
    parser.add_argument("--startup", type=Path, help="what is run at each start, instead of enable()")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="for the copies and the logs")
    parser.add_argument("--off", action="store_true", help="only without publishing, that many more rounds")
    arguments = parser.parse_args()
    startup = arguments.startup.read_text() if arguments.startup else ENABLE
    modes = (OFF,) if arguments.off else MODES
    differing = 0
    for version in arguments.versions:
        folder = arguments.folder.resolve() / version
        shutil.rmtree(folder, ignore_errors=True)
        original = Path(interpreter(version, "--testsuite"))
        pythons = {mode: copy(original, folder / mode) for mode in modes}
        if ON in pythons:
            publishing(pythons[ON], startup)
        print(f"CPython {paths(original)['version'].split()[0]}, PYTHON_JIT=1\n")
        print(
            f"{'':16}   " + "   ".join(f"{mode + ': passed failed skipped':>31}" for mode in modes),
            "  differ",
        )
        for module in arguments.modules:
            runs = run_in_turns(pythons, module, folder / "results", arguments.rounds)
            found = differences(runs[OFF], runs[ON]) if ON in runs else {}
            show(module, runs, found)
            differing += len(found)
        print(f"\nThe logs are in {folder / 'results'}\n")
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
