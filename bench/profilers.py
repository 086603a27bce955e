"""What profilers show of a program whose JIT is on, as it is and after `jitunwind run`: docs/profiling.md's table.

    python bench/profilers.py PACKAGES [--into docs/profiling.md] [--loops N] [--tools NAME...]

The program is the course `functions` of tests/live/programs/shares.py: three functions that do the same, for 50, 30 and
20 % of the time, nearly all of it in JIT code. PACKAGES is a folder with the tools of PyPI (`make profilers` fills it).
Each cell is of one run. A tool that cannot run says why in its cell.
"""

import argparse
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from support import ROOT, VERSIONS, generated_by, interpreter, put_into

sys.path.insert(0, str(ROOT))  # the tests' support is not installed

from jitunwind.startup.launch import environment
from tests.support import perf
from tests.support.fetched import fetched

PROGRAM = ROOT / "tests/live/programs/shares.py"
COURSE = "functions"
PARTS = tuple(f"{COURSE}_{part}" for part in (5, 3, 2))
RATE = "200"
LOOKS = 5
LOOKED_AT = 50
"""Times as long as others the program runs that is looked at: it is killed then."""
STARTED_SECONDS = 1.0
"""After which the program is in the middle of its work."""
PATIENCE = 120
LONGEST_REASON = 90
ACTIVE = """
import sys
def hot(number):
    seen = 0
    for index in range(number):
        seen += sys._jit.is_active()
    return seen
print("active", sum(hot(20_000) for _ in range(20)))
"""
_NATIVE_BOTTOM = re.compile(r"_start|Py_BytesMain|libc_start|\(libc\.so")


@dataclass(frozen=True)
class Subject:
    """What is profiled: a CPython that runs the program, and how."""

    python: str
    published: bool
    packages: Path
    loops: int
    folder: Path

    @property
    def command(self) -> list[str]:
        return [self.python, str(PROGRAM), str(self.loops), COURSE]

    def environment(self, kind: str | None = None) -> dict[str, str]:
        """As `jitunwind run` makes it; `kind`: with --perf."""
        plain = {"PYTHON_JIT": "1", "PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
        return environment(plain, kind) if self.published else plain

    def tool(self, name: str) -> str:
        return str(self.packages / "bin" / name)


class CannotRun(Exception):
    """Why a tool did not do its work."""


def run(command: Sequence[str], settings: Mapping[str, str]) -> str:
    """What it prints; CannotRun."""
    try:
        done = subprocess.run(
            command, env=dict(settings), capture_output=True, text=True, errors="replace", timeout=PATIENCE
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotRun(str(error)) from None
    said = done.stdout + done.stderr
    if done.returncode:
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        reasons = [line for line in lines if re.search("(?i)cannot|not found|error|fail", line)]
        reason = [*reasons, *lines, f"status {done.returncode}"][0]
        raise CannotRun(reason.encode("ascii", "ignore").decode().strip())
    return said


def shares_of(counts: Counter[str], total: int) -> str:
    named = sum(counts[part] for part in PARTS)
    if not named:
        return f"0 of {total} samples name a function"
    shares = " : ".join(f"{100 * counts[part] / named:.0f}" for part in PARTS)
    return f"{named} of {total} samples name a function, {shares}"


def raw(subject: Subject, *options: str) -> tuple[Counter[str], str]:
    """py-spy's collapsed stacks, and what it says."""
    into = subject.folder / "raw"
    command = [subject.tool("py-spy"), "record", "-r", RATE, "-f", "raw", "-o", str(into), *options, "--"]
    said = run([*command, *subject.command], subject.environment())
    stacks = Counter[str]()
    for line in into.read_text(errors="replace").splitlines():
        stack, _, count = line.rpartition(" ")
        stacks[stack] += int(count)
    return stacks, said


def by_function(stacks: Counter[str]) -> Counter[str]:
    counts = Counter[str]()
    for stack, count in stacks.items():
        for part in PARTS:
            counts[part] += count if part in stack else 0
    return counts


def py_spy(subject: Subject) -> str:
    stacks, _ = raw(subject)
    return shares_of(by_function(stacks), stacks.total())


def py_spy_native(subject: Subject) -> str:
    stacks, said = raw(subject, "--native")
    errors = re.search(r"Errors: (\d+)", said)
    unknown = sum(count for stack, count in stacks.items() if "(?)" in stack)
    return (
        f"{shares_of(by_function(stacks), stacks.total())}; {unknown} with frames `(?)`, "
        f"{errors[1] if errors else '?'} errors"
    )


def pystack(subject: Subject) -> str:
    long = [*subject.command[:2], str(LOOKED_AT * subject.loops), COURSE]
    process = subprocess.Popen(long, env=subject.environment(), stdout=subprocess.DEVNULL)
    merged = unknown = 0
    try:
        for _ in range(LOOKS):
            time.sleep(STARTED_SECONDS / LOOKS)
            command = [sys.executable, "-m", "pystack", "remote", "--native", str(process.pid)]
            said = run(command, {"PYTHONPATH": str(subject.packages), "NO_COLOR": "1"})
            merged += "Unable to merge" not in said
            unknown += "???" in said
    finally:
        process.kill()
        process.wait()
    return f"{merged} of {LOOKS} looks merge Python and C frames, {unknown} have `???`"


def austin(subject: Subject) -> str:
    loader = fetched("sid", "elfutils").loader  # it needs a newer libc than this machine's
    into = subject.folder / "austin"
    said = run(
        [*loader, subject.tool("austin"), "-i", "5000", "-o", str(into), *subject.command],
        subject.environment(),
    )
    plain = re.sub(r"\x1b\[[\d;]*m", "", said)
    if "Cannot launch" in plain:
        raise CannotRun("it refuses this Python")
    errors = re.search(r"(\d+)/(\d+) ", plain.partition("Error rate")[2])
    names = all(part.encode() in into.read_bytes() for part in PARTS)
    return (
        f"{errors[2] if errors else '?'} samples, {errors[1] if errors else '?'} errors, the functions are "
        + ("named" if names else "not named")
    )


def memray(subject: Subject) -> str:
    minor = ".".join(interpreter_version(subject.python)[:2])
    folder = subject.packages / f"memray-{minor}"
    settings = subject.environment()
    settings["PYTHONPATH"] = ":".join(filter(None, [settings.get("PYTHONPATH"), str(folder)]))
    into = subject.folder / "memray.bin"
    said = run([subject.python, "-m", "memray", "run", "-q", "-f", "-o", str(into), "-c", ACTIVE], settings)
    active = re.search(r"active (\d+)", said)
    return "JIT code runs" if active and int(active[1]) else "no JIT code runs under it"


def interpreter_version(python: str) -> tuple[str, ...]:
    said = run([python, "--version"], {})
    return tuple(re.findall(r"\d+", said))


def stackprof(subject: Subject) -> str:
    found = fetched("sid", "elfutils")
    tool = [*found.loader, str(found.root / "usr/bin/eu-stackprof")]
    said = run([*tool, "-v", "-n", "256", "--", *subject.command], subject.environment())
    lost = re.search(r"TOTAL -- received (\d+) samples, lost (\d+) samples", said)
    if lost is None:
        raise CannotRun("it says nothing of samples")
    return f"{lost[1]} samples, {lost[2]} lost ({100 * int(lost[2]) / int(lost[1]):.0f} %)"


def perf_by(version: str, call_graph: str, kind: str) -> Callable[[Subject], str]:
    """perf of that version; after `jitunwind run --perf` with that kind of file."""

    def cell(subject: Subject) -> str:
        told = subject.published
        settings = subject.environment(kind)
        try:
            samples = perf.recorded(
                version, subject.command, subject.folder, call_graph, settings, told and kind == "jitdump"
            )
        except AssertionError as error:
            raise CannotRun(str(error).splitlines()[-1]) from None
        by_pointers = call_graph == "fp"
        name = Path(subject.python).name
        times = [each.time for each in samples if each.name == name]
        middle = (
            min(times) + max(times)
        ) / 2  # behind the imports, whose stacks are deeper than what perf copies
        found = [each for each in samples if each.name == name and each.time >= middle]
        whole = sum(each.is_whole_by_frame_pointers if by_pointers else each.is_whole for each in found)
        counts = Counter(each.python for each in found)
        until = "`Py_BytesMain`" if by_pointers else "`_start`"
        return f"{100 * whole / max(len(found), 1):.1f} % of stacks reach {until}; " + shares_of(
            counts, len(found)
        )

    return cell


TOOLS: dict[str, Callable[[Subject], str]] = {
    "py-spy record": py_spy,
    "py-spy record --native": py_spy_native,
    "pystack remote --native": pystack,
    "austin": austin,
    "memray run": memray,
    "eu-stackprof": stackprof,
    "perf 6.1, fp; with a map": perf_by(perf.STOCK, "fp", "map"),
    "perf 7.2, fp; with a map": perf_by(perf.SID, "fp", "map"),
    "perf 6.1, dwarf; with a jitdump": perf_by(perf.STOCK, "dwarf,8192", "jitdump"),
    "perf 7.2, dwarf; with a jitdump": perf_by(perf.SID, "dwarf,8192", "jitdump"),
}


REPORT = ("--no-children", "-g", "none", "--percent-limit", "1.5", "--comm")
MOST_LINES = 12
_OUTPUT = re.compile(r"\s*(\d+\.\d\d%|\d+\.\d\d\s*:|:\s+\d+\s+\S)")
"""Lines of perf's reports and annotations that have something to say."""


def session(python: str, packages: Path, loops: int) -> str:
    """The commands of a session with perf, and the first lines of what they print."""
    name = Path(python).name
    with TemporaryDirectory() as folder:
        tool, settings = (
            perf.command(perf.SID),
            Subject(python, False, packages, loops, Path(folder)).environment(),
        )
        data, injected = f"{folder}/perf.data", f"{folder}/jit.data"
        how = ["-k", "mono", "-e", "cpu-clock", "--call-graph", "dwarf"]
        shown = f"jitunwind run --perf jitdump --python {name} {PROGRAM.name} {loops} {COURSE}"
        started = [sys.executable, "-m", *shown.split()]
        started[started.index(name)], started[started.index(PROGRAM.name)] = python, str(PROGRAM)
        steps = [
            (
                f"record {' '.join(how)} -o perf.data -- {shown}",
                ["record", "-q", *how, "-o", data, "--", *started],
            ),
            ("inject --jit -i perf.data -o jit.data", ["inject", "--jit", "-i", data, "-o", injected]),
            (
                "report -i jit.data --stdio " + " ".join(REPORT[:-1]),
                ["report", "-i", injected, "--stdio", *REPORT, name],
            ),
            (
                f"annotate -i jit.data --stdio -s py::{PARTS[0]}:{PROGRAM.name}",
                ["annotate", "-i", injected, "--stdio", "-s", f"py::{PARTS[0]}:{PROGRAM}"],
            ),
        ]
        lines = []
        for shown, words in steps:
            said = run([*tool, *words], settings)
            kept = [line.rstrip().replace(f"{PROGRAM.parent}/", "") for line in said.splitlines()]
            kept = [line for line in kept if _OUTPUT.match(line) and "  0.00" not in line[:12]]
            lines += [f"$ perf {shown}", *kept[:MOST_LINES], ""]
        for path in Path("/tmp").glob("jit-*.dump"):
            if f"{PROGRAM}".encode() in path.read_bytes():
                perf.remove_files(int(re.findall(r"\d+", path.name)[0]))
    return "```text\n" + "\n".join(lines).rstrip() + "\n```\n"


def versions(packages: Path) -> str:
    """Of all that was run."""
    found = {}
    for folder in packages.glob("*.dist-info"):
        name, _, version = folder.name.removesuffix(".dist-info").rpartition("-")
        found[name.replace("_", "-")] = version
    tools = [f"{name} {found[name]}" for name in ("py-spy", "pystack", "austin-dist") if name in found]
    tools += [
        f"memray {folder.name.split('-')[1].removesuffix('.dist')}"
        for folder in packages.glob("memray-3.14/memray-*.dist-info")
    ]
    tools.append(f"elfutils {fetched('sid', 'elfutils').versions['elfutils']}")
    tools += [
        run([*perf.command(each), "--version"], {}).strip().replace(" version", "") for each in perf.PERFS
    ]
    pythons = [run([interpreter(each), "--version"], {}).strip() for each in VERSIONS]
    return f"Run were {', '.join([*pythons, *tools])}."


def made(tool: str, python: str, published: bool, packages: Path, loops: int) -> str:
    with TemporaryDirectory() as folder:
        try:
            return TOOLS[tool](Subject(python, published, packages, loops, Path(folder)))
        except CannotRun as error:
            return f"does not run: {str(error)[:LONGEST_REASON]}".replace("|", "/")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("packages", type=Path)
    parser.add_argument("--into", type=Path, metavar="PAGE")
    parser.add_argument("--loops", type=int, default=60)
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=list(TOOLS), metavar="NAME")
    options = parser.parse_args()
    packages = options.packages.resolve()
    heads = [f"{version}{', published' if on else ''}" for version in VERSIONS for on in (False, True)]
    lines = [f"| | {' | '.join(heads)} |", "| --- " * (len(heads) + 1) + "|"]
    for tool in options.tools:
        cells = [
            made(tool, interpreter(version), on, packages, options.loops)
            for version in VERSIONS
            for on in (False, True)
        ]
        lines.append(f"| {tool} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    if options.into:
        by = generated_by("bench/profilers.py")
        put_into(options.into, f"{by} {versions(packages)}\n\n" + "\n".join(lines) + "\n", "profilers")
        put_into(options.into, session(interpreter(VERSIONS[-1]), packages, options.loops), "session")


if __name__ == "__main__":
    main()
