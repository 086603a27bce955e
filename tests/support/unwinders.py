"""Unwinders inside a process of CPython, from C code that JIT code has called: the extensions that walk or throw there,
the programs that they are used in, and what GDB with the plugin says of the same stack.
"""

import json
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.live import (
    PATIENCE,
    REPOSITORY,
    Interpreter,
    frames_in,
    function_names,
    gdb_command,
    problems,
    run_gdb,
    running,
)
from tests.support.machines import Machine
from tests.support.stub import waiting_for_gdb

SUPPORT = REPOSITORY / "tests/support"
FLAGS = ["-fPIC", "-O2", "-g", "-fomit-frame-pointer", "-Wall", "-Wextra", "-Werror"]
LIBRARIES = {
    "libunwind": ("libunwind.h", "-lunwind"),
    "unw_backtrace": ("libunwind.h", "-lunwind"),
    "libdw": ("elfutils/libdwfl.h", "-ldw"),
}
"""A header and a library, of the walkers that need one."""
EXACT = ("backtrace", "stacktrace", "libunwind", "unw_backtrace")
KEPT = [
    0x1111222233334444,
    0x2222333344445555,
    0x3333444455556666,
    0x4444555566667777,
    0x5555666677778888,
    0x6666777788889999,
]
"""What the C and C++ code above JIT code keeps in callee-saved registers; the walkers' has the first five."""


def run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def has_header(machine: Machine, name: str) -> bool:
    """Whether the machine's compiler finds that header."""
    command = [machine.compiler(), "-fsyntax-only", "-include", name, "-x", "c", "-"]
    return subprocess.run(command, input="", capture_output=True, text=True).returncode == 0


def walker(python: Interpreter, folder: Path, name: str) -> Path:
    """The folder of the extension `walker`, with that walker. Skips where its library is not there."""
    header, library = LIBRARIES.get(name, ("", ""))
    if header and not has_header(python.machine, header):
        pytest.skip(f"no {header}: `make setup` says what to install")
    objects = [folder / "walker.o", folder / "walk.o"]
    gcc = python.machine.compiler()
    run(gcc, "-c", *FLAGS, *python.includes, "-o", objects[0], SUPPORT / "walker.c")
    if name == "stacktrace":
        return stacktrace_walker(python.machine, folder, objects)
    run(gcc, "-c", *FLAGS, "-o", objects[1], SUPPORT / f"walk_{name}.c")
    run(gcc, "-shared", "-o", folder / "walker.so", *objects, *([library] if library else []))
    return folder


def stacktrace_walker(machine: Machine, folder: Path, objects: Sequence[Path]) -> Path:
    """With the library that this compiler's std::stacktrace needs; or else, as on Debian 12, with a backend of
    our own. libstdc++ itself is linked in: the interpreter's folder may have none."""
    compiler = [machine.compiler("g++"), *FLAGS, "-std=c++23"]
    source = SUPPORT / "walk_stacktrace.cc"
    for library in ("-lstdc++exp", "-lstdc++_libbacktrace"):
        whole = [*compiler, "-shared", "-o", folder / "walker.so", objects[0], source, library]
        if subprocess.run([*whole, "-static-libstdc++"], capture_output=True).returncode == 0:
            return folder
    run(*compiler, "-c", "-DOWN_BACKEND", "-o", objects[1], source)
    run(machine.compiler("g++"), "-shared", "-static-libstdc++", "-o", folder / "walker.so", *objects)
    return folder


@dataclass(frozen=True)
class Walk:
    """Frames, the innermost first: program counters and dynamic symbols; `right` is what GDB says they are. Both
    from the first one in JIT code on: before it, each sees its own."""

    pcs: list[int]
    symbols: list[str]
    right: list[int]
    note: str
    said: str

    def __str__(self) -> str:
        found = "\n".join(f"{pc:#x} {symbol}" for pc, symbol in zip(self.pcs, self.symbols, strict=True))
        return f"found:\n{found}\n{self.note}\nGDB:\n{self.said}"


def jit_code(pid: int) -> list[range]:
    """Executable memory that is no file's."""
    found = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        addresses, permissions, *_, last = line.split()
        if "x" in permissions and last == "0":  # the inode: no name behind it
            start, end = (int(address, 16) for address in addresses.split("-"))
            found.append(range(start, end))
    return found


def is_in(pc: int, ranges: Sequence[range]) -> bool:
    return any(pc in each for each in ranges)


Told = tuple[str, list[range]]
"""What GDB says of a stack, and where JIT code is."""


def compared(told: Told, frames: Sequence[tuple[int, str]], note: str = "") -> Walk:
    """Those frames, and what GDB says of the process that has them."""
    said, jit = told
    first = next((at for at, (pc, _) in enumerate(frames) if is_in(pc, jit)), None)
    assert first is not None, f"no frame in JIT code: {frames}"
    stack = frames_in(said[said.index("#0") :])
    assert not problems(stack, said), said
    all_right = [frame.pc for frame in stack if frame.pc is not None]
    right = all_right[next(at for at, pc in enumerate(all_right) if is_in(pc, jit)) :]
    pcs, symbols = [pc for pc, _ in frames[first:]], [symbol for _, symbol in frames[first:]]
    return Walk(pcs, symbols, right, note, said)


def told_by_gdb(python: Interpreter, program: str, arguments: Sequence[str], published: bool) -> Told:
    """Of the program when it has walked; GDB has the plugin. To one that is emulated no GDB can come so late: there a
    plain one is with it from its start on, and the code has to be published."""
    if python.machine.is_emulated:
        assert published
        command = python.command(program, *arguments, published=published)[len(python.machine.emulator) :]
        with waiting_for_gdb(python.machine, command, python.environment()) as connect:
            stop = ("-ex", "set breakpoint pending on", "-ex", "break pause", "-ex", "continue", "-ex", "bt")
            gdb, symbols = python.machine.gdb, function_names(python)
            said = run_gdb(gdb_command(python, *connect, *stop, plugin=False, gdb=gdb, symbols=symbols))
            return said, [range(f.pc, f.pc + 1) for f in frames_in(said) if f.pc and (f.is_jit or f.is_shim)]
    with running(python, program, *arguments, published=published) as started:
        started.wait_for("walked")
        look = ("-p", str(started.pid), "-ex", "bt")
        said = run_gdb(gdb_command(python, *look, symbols=function_names(python)))
        return said, jit_code(started.pid)


def walked(python: Interpreter, folder: Path, name: str, published: bool) -> Walk:
    """What the walker finds."""
    found = folder / "frames"
    arguments = [str(walker(python, folder, name)), str(found)]
    told = told_by_gdb(python, "walks", arguments, published)
    lines = found.read_text().splitlines()
    frames = [line.split() for line in lines if line.startswith("0x")]
    note = "".join(line for line in lines if not line.startswith("0x"))
    return compared(told, [(int(pc, 16), symbol) for pc, symbol in frames], note)


DUMPED = re.compile(r"^  Binary file .*\[0x([0-9a-f]+)\]$", re.MULTILINE)


def dumped(python: Interpreter, folder: Path, published: bool) -> Walk:
    """What faulthandler.dump_c_stack finds. The note is its text."""
    dump = folder / "dump"
    arguments = [str(walker(python, folder, "backtrace")), str(dump)]
    told = told_by_gdb(python, "dumps", arguments, published)
    newest = dump.read_text().rpartition("C stack trace")[2]
    return compared(told, [(int(pc, 16), "") for pc in DUMPED.findall(newest)], newest)


def build_caught(python: Interpreter, folder: Path) -> Path:
    """The folder of the extension `caught`."""
    gcc = python.machine.compiler("g++")
    compiler = [gcc, "-shared", *FLAGS, *python.includes, "-static-libstdc++"]
    run(*compiler, "-o", folder / "caught.so", SUPPORT / "caught.cc")
    return folder


def unwound(
    python: Interpreter, folder: Path, what: str, published: bool
) -> tuple[subprocess.CompletedProcess[str], dict[str, list[int]]]:
    """How the program ends that throws ("hold") or is cancelled ("cancel"), and its notes."""
    build_caught(python, folder)
    walker(python, folder, "backtrace")
    note = folder / "note"
    done = ended(python, "unwinds", [str(folder), str(folder), what, str(note)], published)
    notes = [line.split() for line in note.read_text().splitlines()]
    return done, {word: [int(value, 16) for value in values] for word, *values in notes}


def walked_deep(python: Interpreter, published: bool = True) -> tuple[list[int], list[int], int]:
    """Of recursion through C and JIT code: a walk without it, a walk from its innermost call, and how many of that
    one's frames are in published code."""
    done = ended(python, "walks_deep", [], published)
    assert done.returncode == 0, done.stderr
    without, deep, known = json.loads(done.stdout.splitlines()[-1])
    return without, deep, known


def thrown_anywhere(
    python: Interpreter, folder: Path, functions: int, published: bool = True
) -> tuple[int, list[tuple[bool, int]]]:
    """How the program ends that throws from many places of so many functions, and of each exception: whether it was
    caught with all registers, and the first program counter in published code that it passed, or 0."""
    found = folder / "found"
    arguments = [str(build_caught(python, folder)), str(functions), str(found)]
    done = ended(python, "unwinds_anywhere", arguments, published)
    return done.returncode, [
        (is_right, pc) for is_right, pc in json.loads(found.read_text() if not done.returncode else "[]")
    ]


@dataclass(frozen=True)
class Interrupted:
    """What is left of a process that was interrupted in JIT code: its text, and program counters of its stack."""

    text: str
    in_jit_code: bool
    """The interrupted instruction is in published code."""
    is_judged: bool
    """There is published code on its stack, and none that was not published yet."""


@dataclass(frozen=True)
class Left:
    """How a process leaves its stack: behind which words, each program counter in which form, and behind how many
    frames of the handler's is the interrupted one."""

    words: str
    pc: str
    handlers: int


LEFT = {
    "cancel": Left("\nstack", r" 0x([0-9a-f]+)", 2),
    "fault": Left("C stack trace", r"\[0x([0-9a-f]+)\]$", 3),
}
PAGE = 4096


def interrupted_anywhere(
    python: Interpreter, folder: Path, how: str, children: int, published: bool = True
) -> list[Interrupted]:
    """So many processes that a signal interrupts in JIT code: "cancel" has their thread cancelled there, "fault" has
    faulthandler dump the C stack."""
    place = folder / how
    place.mkdir()
    arguments = [str(build_caught(python, folder)), how, str(children), str(place)]
    done = ended(python, "interrupted", arguments, published)
    assert done.returncode == 0, done.stderr
    pages = json.loads((place / "pages").read_text())
    left = LEFT[how]
    jit, known = [range(*each) for each in pages["jit"]], set(pages["published"])
    found = []
    for number in range(1, children + 1):
        text = (place / str(number)).read_text()
        stack = text.rpartition(left.words)[2]
        pcs = [int(pc, 16) for pc in re.findall(left.pc, stack, re.MULTILINE)][left.handlers :]
        on_stack = [pc for pc in pcs if is_in(pc, jit)]
        is_published = bool(on_stack) and all(pc & -PAGE in known or not published for pc in on_stack)
        found.append(Interrupted(text, is_published and is_in(pcs[0], jit), is_published))
    return found


def ended(
    python: Interpreter, program: str, arguments: Sequence[str], published: bool
) -> subprocess.CompletedProcess[str]:
    """One of `PROGRAMS`, run to its end."""
    return subprocess.run(
        python.command(program, *arguments, published=published),
        env=python.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
