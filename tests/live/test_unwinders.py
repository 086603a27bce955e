"""Unwinders inside the process, from C code that JIT code has called: do they get through it, and is it right?

With `jitunwind.enable()` and without. What is right is said by GDB with the plugin, of the same stack: it waits
there. What is found without is tested too, so that it is known what publishing is good for.
"""

import re
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from jitunwind.arch.aarch64.registers import AARCH64
from tests.support.live import (
    EVERYWHERE,
    PATIENCE,
    REPOSITORY,
    VERSIONS,
    Interpreter,
    case,
    frames_in,
    gdb_command,
    problems,
    run_gdb,
    running,
)
from tests.support.machines import HERE, MACHINES, Machine
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


def walker(python: Interpreter, folder: Path, name: str) -> Path:
    """The folder of the extension `walker`, with that walker. Skips where its library is not there."""
    header, library = LIBRARIES.get(name, ("", ""))
    if header:
        asked = subprocess.run(
            [python.machine.compiler(), "-fsyntax-only", "-include", header, "-x", "c", "-"],
            input="",
            capture_output=True,
            text=True,
        )
        if asked.returncode:
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
            said = run_gdb(gdb_command(python, *connect, *stop, plugin=False, gdb=python.machine.gdb))
            return said, [range(f.pc, f.pc + 1) for f in frames_in(said) if f.pc and (f.is_jit or f.is_shim)]
    with running(python, program, *arguments, published=published) as started:
        started.wait_for("walked")
        return run_gdb(gdb_command(python, "-p", str(started.pid), "-ex", "bt")), jit_code(started.pid)


def walked(python: Interpreter, folder: Path, name: str, published: bool) -> Walk:
    """What the walker finds."""
    found = folder / "frames"
    arguments = [str(walker(python, folder, name)), str(found)]
    told = told_by_gdb(python, "walks", arguments, published)
    lines = found.read_text().splitlines()
    frames = [line.split() for line in lines if line.startswith("0x")]
    note = "".join(line for line in lines if not line.startswith("0x"))
    return compared(told, [(int(pc, 16), symbol) for pc, symbol in frames], note)


@pytest.mark.parametrize(
    ("python", "name"),
    [
        case(version, machine, name)
        for version in VERSIONS
        for machine in MACHINES
        for name in (EXACT if machine is HERE else EXACT[:1])  # the second is the same unwinder
    ],
    indirect=["python"],
)
def test_published_code_is_walked_through_to_main(python: Interpreter, tmp_path: Path, name: str) -> None:
    walk = walked(python, tmp_path, name, published=True)
    assert walk.pcs == walk.right, f"the stack is not GDB's\n{walk}"
    for symbol in ("hold", "Py_BytesMain", "_start"):
        assert symbol in walk.symbols, f"no {symbol}\n{walk}"
    if name == "libunwind":
        held = {int(value, 16) for value in walk.note.split()[1:] if value != "lost"}
        assert set(KEPT[:5]) <= held, walk


@pytest.mark.parametrize("name", EXACT)
def test_unpublished_code_is_not(python: Interpreter, tmp_path: Path, name: str) -> None:
    """3.15 has frame pointers, and tells libgcc of them: there only the entry into JIT code is passed over."""
    walk = walked(python, tmp_path, name, published=False)
    missing = [pc for pc in walk.right if pc not in walk.pcs]
    assert missing, walk
    if not python.shim_in_region:
        assert len(missing) == 1, walk
        assert "_start" in walk.symbols, walk
    elif name in ("backtrace", "stacktrace"):
        assert len(walk.pcs) == 1, f"not cut at the first frame in JIT code\n{walk}"


@pytest.mark.parametrize("published", [False, True], ids=["off", "on"])
def test_libdw_passes_over_a_frame(python: Interpreter, tmp_path: Path, published: bool) -> None:
    """Published or not: it knows files only (docs/unwinders.md), and goes by frame pointers elsewhere. On 3.14 rbp
    is the evaluator's, on 3.15 the entry's: the function that has set it is passed over."""
    walk = walked(python, tmp_path, "libdw", published)
    missing = [pc for pc in walk.right if pc not in walk.pcs]
    assert len(missing) == 1, walk
    assert "_start" in walk.symbols, walk


DUMPED = re.compile(r"^  Binary file .*\[0x([0-9a-f]+)\]$", re.MULTILINE)


@pytest.mark.parametrize("published", [False, True], ids=["off", "on"])
def test_faulthandler_dumps_the_c_stack_through_jit_code(
    python: Interpreter, tmp_path: Path, published: bool
) -> None:
    dump = tmp_path / "dump"
    arguments = [str(walker(python, tmp_path, "backtrace")), str(dump)]
    told = told_by_gdb(python, "dumps", arguments, published)
    newest = dump.read_text().rpartition("C stack trace")[2]
    walk = compared(told, [(int(pc, 16), "") for pc in DUMPED.findall(newest)], newest)
    # The innermost frame in JIT code is at another call by now.
    if published:
        assert walk.pcs[1:] == walk.right[1:], walk
        assert "_start+" in newest, walk
    elif python.shim_in_region:
        assert len(walk.pcs) == 1, f"not cut at the first frame in JIT code\n{walk}"
    else:
        assert [pc for pc in walk.right[1:] if pc not in walk.pcs] == walk.right[1:2], walk


def unwound(
    python: Interpreter, folder: Path, what: str, published: bool
) -> tuple[subprocess.CompletedProcess[str], dict[str, list[int]]]:
    """How the program ends that throws ("hold") or is cancelled ("cancel"), and its notes."""
    gcc = python.machine.compiler("g++")
    compiler = [gcc, "-shared", *FLAGS, *python.includes, "-static-libstdc++"]
    run(*compiler, "-o", folder / "caught.so", SUPPORT / "caught.cc")
    walker(python, folder, "backtrace")
    note = folder / "note"
    done = subprocess.run(
        python.command("unwinds", str(folder), str(folder), what, str(note), published=published),
        env=python.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    notes = [line.split() for line in note.read_text().splitlines()]
    return done, {word: [int(value, 16) for value in values] for word, *values in notes}


@EVERYWHERE
def test_an_exception_is_caught_above_published_code_with_all_registers(
    python: Interpreter, tmp_path: Path
) -> None:
    done, notes = unwound(python, tmp_path, "hold", published=True)
    assert done.returncode == 0, done.stderr
    assert notes == {"caught": KEPT}


@EVERYWHERE
def test_an_exception_is_not_caught_above_unpublished_code_or_damages_registers(
    python: Interpreter, tmp_path: Path
) -> None:
    done, notes = unwound(python, tmp_path, "hold", published=False)
    if python.shim_in_region:
        assert done.returncode == -signal.SIGABRT
        assert "terminate called after throwing" in done.stderr
        assert not notes
    else:
        assert done.returncode == 0, done.stderr
        # What is wrong is the evaluator's; on AArch64 that has saved all that was its caller's.
        assert (notes["caught"] == KEPT) == (python.machine.arch is AARCH64)


@EVERYWHERE
def test_a_thread_cancelled_below_published_code_cleans_up_above_it(
    python: Interpreter, tmp_path: Path
) -> None:
    done, notes = unwound(python, tmp_path, "cancel", published=True)
    assert done.returncode == 0, done.stderr
    assert notes == {"unwound": KEPT, "cleaned": [], "joined": []}


def test_a_thread_cancelled_below_unpublished_code_does_not_or_has_damaged_registers(
    python: Interpreter, tmp_path: Path
) -> None:
    done, notes = unwound(python, tmp_path, "cancel", published=False)
    assert done.returncode == 0, done.stderr
    if python.shim_in_region:
        assert notes == {"joined": []}
    else:
        assert notes.keys() == {"unwound", "cleaned", "joined"}
        assert notes["unwound"] != KEPT
