"""Real interpreters, real programs in JIT code, and GDB upon them: what the live tests are made of.

Every wait is a handshake or the end of a command, each with a generous limit; nobody sleeps.
"""

import json
import os
import re
import selectors
import subprocess
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile

from jitunwind.arch.x86_64.effects import decode
from jitunwind.arch.x86_64.registers import X86_64
from jitunwind.jits.cpython import versions
from jitunwind.jits.cpython.discovery import read_layout
from jitunwind.jits.cpython.regions import Regions
from jitunwind.memory.process import LiveProcess
from jitunwind.rows import UnwindTable
from jitunwind.tables.sources import Recovered
from tests.support import markers, noisy
from tests.support.agent import bytecode, packages
from tests.support.machines import HERE, MACHINES, Machine
from tools import debuggers

REPOSITORY = Path(__file__).parents[2]
PROGRAMS = REPOSITORY / "tests/live/programs"
LOAD = REPOSITORY / "src/jitunwind/gdbplugin/load.py"
PUBLISHED = REPOSITORY / "tests/support/published.py"
PACKAGES = sysconfig.get_path("platlib")
VERSIONS = versions.NAMES
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


def interpreter(minor: str, machine: Machine = HERE) -> Interpreter:
    """The interpreter of that version. The test fails where none can be had: these tests are the proof."""
    markers.demand("live")
    if machine.is_emulated:
        markers.demand("aarch64")
    return _interpreter(minor, machine)


@cache
def _interpreter(minor: str, machine: Machine) -> Interpreter:
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
class Setup:
    """How GDB learns of a process's JIT code, which GDB that is, when it comes, and what it knows of CPython."""

    plugin: bool = False
    published: bool = False
    """The process publishes its JIT code itself."""
    newest: bool = False
    """GDB 18 or later, from PyPI; else the machine's."""
    from_start: bool = False
    """GDB has started the program; else it attaches to the running one."""
    debug_information: bool = False
    """GDB has that of the interpreter, which it takes a second to read; else only the names of its functions."""

    def __str__(self) -> str:
        if not self.published:
            return "plugin" if self.plugin else "no-plugin"
        gdb = "newest" if self.newest else "system"
        return f"published-{gdb}-{'from-start' if self.from_start else 'later'}"

    @property
    def gdb(self) -> str:
        return newest_gdb() if self.newest else "gdb"

    def command(self, python: Interpreter, *arguments: str) -> list[str]:
        """GDB in batch mode."""
        symbols = python.debug_file_directory if self.debug_information else function_names(python)
        return gdb_command(python, *arguments, plugin=self.plugin, gdb=self.gdb, symbols=symbols)


PLUGIN, NOTHING = Setup(plugin=True, debug_information=True), Setup()
PUBLISHED_SETUPS = [
    Setup(published=True, newest=newest, from_start=from_start)
    for newest in (False, True)
    for from_start in (False, True)
]


@cache
def function_names(python: Interpreter) -> str:
    """A debug-file-directory in which the debug file of the interpreter's executable has the names of its functions, as
    the source has them, and nothing else. Where the executable has no such file, the interpreter's own directory."""
    debug_file = _debug_file(python)
    if debug_file is None:
        return python.debug_file_directory
    tools = python.machine.tools
    done = subprocess.run([f"{tools}nm", "-j", debug_file], capture_output=True, text=True, check=True)
    names = set(done.stdout.split())
    if "_PyEval_EvalFrameDefault" not in names:  # it is in a library
        return python.debug_file_directory
    renamed = {name: _LTO.sub("", name) for name in names if _LTO.search(name)}
    count = Counter(_LTO.sub("", name) for name in names)
    folder: TemporaryDirectory[str] = TemporaryDirectory(prefix="jitunwind-")
    _folders.append(folder)
    source_names = Path(folder.name, "names")
    source_names.write_text("".join(f"{old} {new}\n" for old, new in renamed.items() if count[new] == 1))
    for other in Path(python.debug_file_directory).rglob("*.debug"):  # of extension modules, which are small
        link = Path(folder.name, other.relative_to(python.debug_file_directory))
        link.parent.mkdir(parents=True, exist_ok=True)
        if other != debug_file:
            link.symlink_to(other)
    made = Path(folder.name, debug_file.relative_to(python.debug_file_directory))
    rename = f"--redefine-syms={source_names}"
    subprocess.run([f"{tools}objcopy", "--strip-debug", rename, debug_file, made], check=True)
    return folder.name


def _debug_file(python: Interpreter) -> Path | None:
    """By the build-id, as GDB finds it."""
    with open(python.python, "rb") as file:
        section: Any = ELFFile(file).get_section_by_name(".note.gnu.build-id")
        build_id = next((note["n_desc"] for note in section.iter_notes()), "") if section else ""
    found = Path(python.debug_file_directory, ".build-id", build_id[:2], f"{build_id[2:]}.debug")
    return found if build_id and python.debug_file_directory and found.exists() else None


_LTO = re.compile(r"\.lto_priv\.\d+")
"""What GCC appends to the name of a static function that another partition of a link-time optimization calls."""


_folders: list["TemporaryDirectory[str]"] = []


def fetched(name: str) -> Path:
    """The folder of what `make debuggers` has fetched under that name; skips where it has not."""
    folder = debuggers.folder_of(name)
    if folder is None:
        pytest.skip(f"no {name}: `make debuggers` fetches it")
    return folder


def numba_for(minor: str) -> Path:
    """The folder with numba for that version of CPython, to be put on its path; skips where there is none."""
    return fetched(debuggers.numba_folder(minor))


@cache
def newest_lldb() -> str:
    """LLDB 19: a script that runs it with its libraries."""
    folder = fetched("lldb-19")
    program = folder / "lldb"
    if not program.exists():
        libraries = f"{folder}/usr/lib/llvm-19/lib:{next(folder.glob('usr/lib/*/liblldb-19.so.1')).parent}"
        script = f'#!/bin/sh\nLD_LIBRARY_PATH={libraries} exec {folder}/usr/lib/llvm-19/bin/lldb "$@"\n'
        made = folder / f"made-{os.getpid()}"
        made.write_text(script)
        made.chmod(0o755)
        made.rename(program)
    return str(program)


@cache
def newest_gdb() -> str:
    """GDB 18 or later."""
    path = str(fetched(debuggers.GDB_FOLDER) / "bin/gdb")
    noisy_ones = os.environ.get(noisy.FOLDER)
    return noisy.write(path, Path(noisy_ones, "newest-gdb")) if noisy_ones else path


def gdb_command(
    python: Interpreter,
    *arguments: str,
    plugin: bool = True,
    packages: bool = True,
    symbols: str | None = None,
    gdb: str = "gdb",
) -> list[str]:
    """GDB in batch mode, with the plugin or without; `packages`: whether the plugin finds iced-x86; `symbols`: where
    GDB looks for debug files, if not where the interpreter's are."""
    command = [gdb, "-nx", "-q", "-batch", "-iex", "set auto-load no", "-iex", "set width 0"]
    if symbols is None:
        symbols = python.debug_file_directory
    if symbols:
        command += ["-iex", f"set debug-file-directory {symbols}"]
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


class LostDetach(AssertionError):
    """GDB 13.1 has aborted where it let go of a process with several threads: gdb/linux-nat.c, at times."""


_LOST_DETACH = "detach: Assertion `num_lwps (pid) == 1' failed"


def run_gdb(
    command: Sequence[str], check: bool = True, cwd: Path | None = None, limit: float = PATIENCE
) -> str:
    """What GDB says, on both channels. With `check`, no error of the plugin's may be in it. LostDetach."""
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
    if _LOST_DETACH in done.stdout:
        raise LostDetach(done.stdout)
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


def is_of_libgcc(frame: Frame) -> bool:
    """One of libgcc's, which has no name either: on AArch64 what flushes caches for new code is there."""
    return frame.name == "??" and "libgcc_s.so" in frame.rest


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
        if frame.name == "??" and not (is_unnamed(frame) or is_of_libgcc(frame)):
            found.append(f"#{frame.level} has no name: {frame}")
        if frame.is_jit and (caller is None or not caller.is_shim):
            found.append(f"#{frame.level} {frame.name} is not followed by a shim")
        if frame.is_shim and (caller is None or not caller.name.startswith("_PyEval_")):
            found.append(f"#{frame.level} {frame.name} was not called by the interpreter")
    return found
