"""What the benchmarks share: interpreters, a process with many executors, timing in turns, files checked, and
figures put into pages."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import iced_x86

import jitunwind
from jitunwind.check.files import Reports, Result, judge_file, result_of
from jitunwind.check.functions import Program
from jitunwind.jits.cpython import versions

ROOT = Path(__file__).resolve().parents[1]
VERSIONS = versions.NAMES
ENABLE = "import jitunwind; jitunwind.enable()\n"
STARTUP = "publishing_switched_on"


def interpreter(version: str, *options: str) -> str:
    """The path of a JIT-enabled CPython of `version`, fetched if need be."""
    tool = [sys.executable, str(ROOT / "tools" / "interpreters.py"), version, "--json", *options]
    answer = subprocess.run(tool, check=True, capture_output=True, text=True).stdout
    return str(json.loads(answer.splitlines()[-1])["python"])


def installed() -> str:
    """The path of a `jitunwind` command that is installed as users install it, from a wheel of this checkout."""
    place = ROOT / "build" / "installed"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([sys.executable, "-m", "venv", place], check=True, env=environment)
    for options in ((), ("--force-reinstall", "--no-deps")):
        command = [place / "bin" / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*command, *options, str(ROOT)], check=True, env=environment)
    return str(place / "bin" / "jitunwind")


def debug_folder(pid: int) -> Path:
    """Where the debug files lie of the fetched interpreter that a process runs."""
    return Path(os.readlink(f"/proc/{pid}/exe")).parent.parent / "lib" / "debug"


def switch_on(place: Path, startup: str) -> None:
    """Puts into a folder of a Python's path what it needs to publish; importing STARTUP there runs `startup`."""
    place.mkdir(parents=True, exist_ok=True)
    for library in (Path(jitunwind.__file__).parent, Path(iced_x86.__file__).parent):
        (place / library.name).symlink_to(library)
    (place / f"{STARTUP}.py").write_text(startup)


IS_ON = """
import sys
for number in range(100_000):
    number += 1
jitunwind = sys.modules.get("jitunwind")
publishes = jitunwind is None or not sys._jit.is_enabled()
if not publishes:
    jitunwind.flush(60)
    publishes = jitunwind.statistics().regions > 0
print("STARTUP" in sys.modules and publishes)
""".replace("STARTUP", STARTUP)


def is_switched_on(python: Path, environment: dict[str, str], *options: str) -> bool:
    """Whether such a Python runs `startup` when it starts, without a complaint (which this shows), and then publishes,
    if that is what `startup` is for and the JIT is on."""
    question = [python, *options, "-c", IS_ON]
    done = subprocess.run(question, capture_output=True, text=True, env=environment, timeout=60)
    print(done.stderr, end="", file=sys.stderr)
    return (done.stdout, done.stderr) == ("True\n", "")


@contextmanager
def running(version: str, executors: int, depth: int = 0) -> Iterator[int]:
    """The pid of a process with that many executors, and that deep in JIT activations, once it is ready."""
    with running_program(version, ROOT / "bench" / "many.py", str(executors), str(depth)) as pid:
        yield pid


@contextmanager
def running_program(version: str, path: Path, *arguments: str) -> Iterator[int]:
    """The pid of a process that runs a program, once it has said that it is ready."""
    program = [interpreter(version), str(path), *arguments]
    environment = {**os.environ, "PYTHON_JIT": "1"}
    process = subprocess.Popen(program, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise RuntimeError(f"{program} did not become ready")
        yield process.pid
    finally:
        process.kill()
        process.wait()


def in_turns(
    one: Callable[[], object], other: Callable[[], object], rounds: int
) -> tuple[float, float, float]:
    """Median seconds of `one` and of `other`, run A B A B …, and the median of the ratios pair by pair."""
    one(), other()
    pairs = [(_seconds(one), _seconds(other)) for _ in range(rounds)]
    ones, others, ratios = zip(*((a, b, a / b) for a, b in pairs), strict=True)
    return statistics.median(ones), statistics.median(others), statistics.median(ratios)


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def checked(path: Path, processes: int) -> Result:
    """What `jitunwind check` finds in one file."""
    began = time.perf_counter()
    program = Program(path)
    reports: Reports = {}
    judge_file(program, processes, reports, lambda report: None)
    return result_of(program, reports, time.perf_counter() - began, 0)


def generated_by(script: str, processors: int | None = None) -> str:
    """The line that says when, by what and with what a page's figures were made."""
    machine = f" on {processors} processors" if processors else ""
    return (
        f"Generated on {datetime.now(UTC):%Y-%m-%d} by `python {script}`{machine}, with iced-x86 "
        f"{version('iced-x86')}, pyelftools {version('pyelftools')}, Python {platform.python_version()}."
    )


def put_into(page: Path, figures: str, section: str = "") -> None:
    """Put the generated part between its marks, those of a `section` if there are several; the prose around them
    stays."""
    name = f": {section}" if section else ""
    begin, end = f"<!-- begin generated{name} -->", f"<!-- end generated{name} -->"
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(begin)
    _, mark, after = rest.partition(end)
    if not mark:
        raise SystemExit(f"{page} has no {begin} ... {end}: put the two marks where the figures go")
    page.write_text(f"{before}{begin}\n{figures}{end}{after}", encoding="utf-8")
