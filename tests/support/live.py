"""Real interpreters, real programs in JIT code, and GDB upon them: what the live tests are made of.

Every wait is a handshake or the end of a command, each with a generous limit; nobody sleeps.
"""

import json
import os
import re
import selectors
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from jitunwind.arch.x86_64.effects import decode
from jitunwind.arch.x86_64.registers import X86_64
from jitunwind.jits.cpython.layout import read_layout
from jitunwind.jits.cpython.regions import Regions
from jitunwind.memory.process import LiveProcess
from jitunwind.rows import UnwindTable
from jitunwind.tables.sources import Recovered
from tests.support import THOROUGH, noisy
from tests.support.agent import bytecode, packages
from tests.support.machines import HERE, MACHINES, Machine

REPOSITORY = Path(__file__).parents[2]
PROGRAMS = REPOSITORY / "tests/live/programs"
LOAD = REPOSITORY / "src/jitunwind/gdbplugin/load.py"
PUBLISHED = REPOSITORY / "tests/support/published.py"
PACKAGES = sysconfig.get_path("platlib")
VERSIONS = ("3.14", "3.15")
PATIENCE = 300
"""Seconds until a wait is given up: far more than any takes."""


@dataclass(frozen=True)
class Interpreter:
    """A JIT-enabled CPython with debug symbols: what tools/interpreters.py says of it."""

    minor: str
    python: str
    debug_file_directory: str
    include: str
    machine: Machine = HERE

    @property
    def shim_in_region(self) -> bool:
        return self.minor == "3.14"

    def environment(self) -> dict[str, str]:
        return {**os.environ, **self.settings}

    @property
    def settings(self) -> dict[str, str]:
        """What the environment of a program of the live tests has in it."""
        return {
            "PYTHON_JIT": "1",
            "PYTHONPYCACHEPREFIX": bytecode(),
            "PYTHONPATH": str(PROGRAMS),
            "JITUNWIND_TEST_PACKAGES": PACKAGES,
            "JITUNWIND_TEST_SOURCE": str(packages(self.machine)),
            "JITUNWIND_TEST_EMULATED": str(int(self.machine.is_emulated)),
        }

    @property
    def includes(self) -> list[str]:
        """What makes a compiler find CPython's headers, as system headers: they are not ours to have no warnings."""
        return ["-isystem", self.include, "-isystem", str(Path(self.include).parent)]

    def command(self, program: str | Path, *arguments: str, published: bool = False) -> list[str]:
        """That runs `program`, a path or the name of one of `PROGRAMS`; `published`: it publishes its JIT code."""
        path = program if isinstance(program, Path) else PROGRAMS / f"{program}.py"
        program = [str(PUBLISHED), str(path)] if published else [str(path)]
        return [*self.machine.emulator, self.python, *program, *arguments]


@cache
def interpreter(minor: str, machine: Machine = HERE) -> Interpreter:
    """The interpreter of that version. The test fails where none can be had: these tests are the proof."""
    command = [sys.executable, str(REPOSITORY / "tools/interpreters.py"), minor, "--debug-symbols", "--json"]
    if machine.is_emulated:
        command += ["--arch", machine.arch.name]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.fail(f"no JIT-enabled Python {minor}: {done.stderr.strip()}")
    answer = json.loads(done.stdout.splitlines()[-1])
    symbols = answer["debug_file_directory"] or ""
    return Interpreter(minor, answer["python"], symbols, answer["include"], machine)


def case(version: str, machine: Machine, *others: str) -> Any:
    """Of a test that is parametrized with the fixture `python`, and `others`."""
    return pytest.param((version, machine), *others, id="-".join([version, str(machine), *others]))


EVERYWHERE = pytest.mark.parametrize(
    "python", [case(version, machine) for version in VERSIONS for machine in MACHINES], indirect=True
)
"""The fixture `python` of this machine and of AArch64."""


class Program:
    """A running program; its standard output is the handshake's."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._unread = b""

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_for(self, word: str) -> None:
        """Until the program has printed `word` on a line of its own. Of words in one breath none is lost."""
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while True:
                line, end, rest = self._unread.partition(b"\n")
                if end:
                    self._unread = rest
                    if line.strip() == word.encode():
                        return
                    continue
                more = os.read(self.process.stdout.fileno(), 4096) if selector.select(PATIENCE) else b""
                if not more:
                    break
                self._unread += more
        pytest.fail(f"{self.process.args!r} never said {word!r}; its exit code: {self.process.poll()}")


@contextmanager
def running(
    python: Interpreter,
    program: str | Path,
    *arguments: str,
    cwd: Path | None = None,
    published: bool = False,
    settings: Mapping[str, str] | None = None,
) -> Iterator[Program]:
    """`program` (a path, or the name of one of `PROGRAMS`), warm; killed at the end. `settings`: more of its
    environment."""
    process = subprocess.Popen(
        python.command(program, *arguments, published=published),
        env={**python.environment(), **(settings or {})},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    try:
        started = Program(process)
        started.wait_for("ready")
        yield started
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def recovered_tables(pid: int) -> list[tuple[int, UnwindTable]]:
    """(address, recovered table) of each region of a process that runs on meanwhile."""
    with LiveProcess(pid) as memory:
        regions = Regions(memory, read_layout(memory))
        tables = Recovered(X86_64, decode)
        found = [code for code in map(regions.find, regions.starts) if code is not None]
        return [(code.start, tables.of(code)) for code in found]


@dataclass(frozen=True)
class Way:
    """How GDB comes to know a process's JIT code, which GDB that is, and when it comes."""

    plugin: bool = False
    published: bool = False
    """From inside, by the process itself."""
    newest: bool = False
    """GDB 18 or later, from PyPI; else the machine's."""
    from_start: bool = False
    """GDB has started the program; else it is attached to the one that runs."""

    def __str__(self) -> str:
        if not self.published:
            return "plugin" if self.plugin else "no-plugin"
        gdb = "newest" if self.newest else "system"
        return f"published-{gdb}-{'from-start' if self.from_start else 'later'}"

    @property
    def gdb(self) -> str:
        return newest_gdb() if self.newest else "gdb"


PLUGIN, NOTHING = Way(plugin=True), Way()
EACH_PUBLISHED = [
    Way(published=True, newest=newest, from_start=start)
    for newest in (False, True)
    for start in (False, True)
]


def published_ways(version: str, turn: int) -> list[Way]:
    """One of them for one of the versions: over eight turns each GDB is there at each time, with each version.
    All, where tests are thorough."""
    if THOROUGH:
        return EACH_PUBLISHED
    return [EACH_PUBLISHED[turn // 2 % 4]] if VERSIONS[turn % 2] == version else []


def _kept() -> Path:
    """The folder of what is fetched for tests."""
    return Path(os.environ.get("JITUNWIND_CACHE") or Path.home() / ".cache/jitunwind")


def fetched(folder_name: str, *packages: str) -> Path:
    """A folder with what those packages of Debian hold, unpacked: they may wait for a package that a mirror lacks and
    that is not needed here, or must not be there together with others. Skips where apt does not have them."""
    folder = _kept() / folder_name
    if not (folder / ".complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        download = ["apt-get", "download", *packages]
        done = subprocess.run(download, cwd=folder, capture_output=True, text=True)
        if done.returncode:  # without a list of packages, or with an old one
            subprocess.run(["apt-get", "update"], capture_output=True)
            done = subprocess.run(download, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"{packages[0]} cannot be fetched: {done.stderr.strip()[-200:]}")
        for package in folder.glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", package, folder], check=True)
            package.unlink()
        (folder / ".complete").touch()
    return folder


@cache
def wheels(minor: str, *packages: str) -> Path:
    """A folder with those packages of PyPI for that version of CPython, to be put on its path; skips where there are
    none."""
    folder = _kept() / f"wheels-{minor}-{'-'.join(packages)}"
    if not (folder / ".complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        command += [
            "--ignore-requires-python",
            "--only-binary",
            ":all:",
            "--python-version",
            minor,
            "--target",
            str(folder),
            *packages,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"{packages[0]} for {minor} cannot be installed: {done.stderr.strip()[-200:]}")
        (folder / ".complete").touch()
    return folder


@cache
def newest_lldb() -> str:
    """LLDB 19."""
    folder = fetched("lldb-19", "lldb-19", "liblldb-19", "libllvm19", "libclang-cpp19")
    program = folder / "lldb"
    if not program.exists():
        libraries = f"{folder}/usr/lib/llvm-19/lib:{next(folder.glob('usr/lib/*/liblldb-19.so.1')).parent}"
        script = f'#!/bin/sh\nLD_LIBRARY_PATH={libraries} exec {folder}/usr/lib/llvm-19/bin/lldb "$@"\n'
        made = folder / "made"
        made.write_text(script)
        made.chmod(0o755)
        made.rename(program)
    return str(program)


@cache
def newest_gdb() -> str:
    """GDB 18 or later, in a venv of its own under the cache folder; skips where PyPI is not to be had."""
    folder = _kept() / "gdb-for-pwndbg"
    if not (folder / ".complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        pip = [folder / "bin/python", "-m", "pip", "install", "--quiet", "gdb-for-pwndbg>=18.1"]
        done = subprocess.run(pip, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"gdb-for-pwndbg cannot be installed: {done.stderr.strip()[-200:]}")
        (folder / ".complete").touch()
    path = str(folder / "bin/gdb")
    noisy_ones = os.environ.get(noisy.FOLDER)
    return noisy.write(path, Path(noisy_ones, "newest-gdb")) if noisy_ones else path


def gdb_command(
    python: Interpreter,
    *arguments: str,
    plugin: bool = True,
    packages: bool = True,
    symbols: bool = True,
    gdb: str = "gdb",
) -> list[str]:
    """GDB in batch mode, with the plugin or without; `packages`: whether the plugin finds iced-x86."""
    command = [gdb, "-nx", "-q", "-batch", "-iex", "set auto-load no", "-iex", "set width 0"]
    if symbols and python.debug_file_directory:
        command += ["-iex", f"set debug-file-directory {python.debug_file_directory}"]
    if plugin:
        search = [str(REPOSITORY / "src"), *([PACKAGES] if packages else [])]
        command += ["-iex", f"python import runpy; runpy.run_path({str(LOAD)!r}, {{'SEARCH': {search!r}}})"]
    return [*command, *arguments]


def starting(python: Interpreter) -> list[str]:
    """GDB's arguments to start one of `PROGRAMS`, and stop it where it is ready."""
    settings = [f"set environment {name} {value}" for name, value in python.settings.items()]
    own = "unset environment PYTHONHOME"  # that of the newest GDB
    early = ["set startup-with-shell off", "set breakpoint pending on", own, *settings]
    late = ["tbreak alarm", "run"]
    return [
        *[part for line in early for part in ("-iex", line)],
        *[part for line in late for part in ("-ex", line)],
    ]


def run_gdb(
    command: Sequence[str], check: bool = True, cwd: Path | None = None, limit: float = PATIENCE
) -> str:
    """What GDB says, on both channels. With `check`, no error of the plugin's may be in it."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=limit,
        cwd=cwd,
    )
    if check:
        assert done.returncode == 0, f"GDB ended with {done.returncode}:\n{done.stdout}"
        assert_calm(done.stdout)
    return done.stdout


def assert_calm(text: str) -> None:
    """No traceback, no internal error, nothing that says that a part of the plugin broke."""
    for sign in (
        "Traceback",
        "Python Exception",
        "internal-error",
        "Error while executing",
        "Error occurred",
    ):
        assert sign not in text, f"GDB says {sign!r}:\n{text}"


@dataclass(frozen=True)
class Frame:
    """A line of `bt`. `pc` is None for inlined functions."""

    level: int
    pc: int | None
    name: str
    rest: str

    @property
    def is_jit(self) -> bool:
        return self.name.startswith("py::") and not self.is_shim

    @property
    def is_shim(self) -> bool:
        return self.name.startswith("py::jit_shim:") or self.name == "_PyJIT_Entry"


_FRAME = re.compile(
    r"^#(\d+) +(?:0x([0-9a-f]+) in )?(<[^>]*>|py::.*?(?= \()|[^\s(]+)(?: (.*))?$", re.MULTILINE
)


def frames_in(text: str) -> list[Frame]:
    """The frames of a `bt`; the newest one has no address where it stands at a line's begin."""
    return [
        Frame(int(m[1]), int(m[2], 16) if m[2] else None, m[3], m[4] or "") for m in _FRAME.finditer(text)
    ]


OUTERMOST = ("_start", "clone", "clone3", "__clone3")


def is_unnamed(frame: Frame) -> bool:
    """Whether it is one of libc's own functions: its static ones, and `clone3` where a thread's stack ends,
    have no names without libc's debug symbols. GDB says so itself where a stack has not come to its end."""
    return frame.name == "??" and "libc.so" in frame.rest


def problems(frames: Sequence[Frame], text: str) -> list[str]:
    """What is wrong with a stack: cut, corrupt, nameless, invented or doubled frames, a JIT frame that no
    shim has called. Empty for a complete one."""
    found = []
    if not frames:
        return ["no frames at all"]
    if frames[-1].name not in OUTERMOST and not is_unnamed(frames[-1]):
        found.append(f"it ends in {frames[-1].name}")
    # The debug information of an inlined function may have an argument in memory that is not there.
    said = re.sub(r"<error reading variable: [^>]*>", "", text)
    for sign in ("corrupt stack", "Backtrace stopped", "Cannot access memory"):
        if sign in said:
            found.append(sign)
    if [frame.level for frame in frames] != list(range(len(frames))):
        found.append("levels are missing")
    for frame, caller in zip(frames, [*frames[1:], None], strict=True):
        if frame.name == "??" and not is_unnamed(frame):
            found.append(f"#{frame.level} has no name: {frame}")
        if frame.is_jit and (caller is None or not caller.is_shim):
            found.append(f"#{frame.level} {frame.name} is not followed by a shim")
        if frame.is_shim and (caller is None or not caller.name.startswith("_PyEval_")):
            found.append(f"#{frame.level} {frame.name} was not called by the interpreter")
    return found
