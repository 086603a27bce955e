"""Plain GDB's stack beside jitunwind's, of one and the same stop inside JIT code: what `make demo` runs.

For CPython 3.14 and 3.15 it starts hot.py with the JIT on, has one GDB attach, step into JIT code and print
the stack and the caller's registers twice, before and after it loads jitunwind's plugin; then it lets the JIT
code return and reads the registers that the caller really gets back. It exits with 1 where jitunwind's answer
is not whole and true, with 2 where it cannot do its work.
"""

import ctypes
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.rule import Rule
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from debian_packages import DEBIAN_NAMES
from debian_packages import CannotError as NoInterpreter
from interpreters import Interpreter, Request, find
from jitunwind.errors import JitunwindError
from jitunwind.gdbplugin.launch import find_gdb, load_line

TOOLS = Path(__file__).parent
PROGRAM = TOOLS / "hot.py"
VERSIONS = ("3.14", "3.15")
TWO_COLUMNS = 160
"""Width of a terminal from which on the two stacks stand side by side."""
MOST_STEPS = 5000
DEEP = 40
"""Instructions inside JIT code until it stops: not at the first one, where hardly anything can go wrong."""
MOST_TRIES = 10
LONGEST_STOP = 120
"""Seconds: if `finish` comes back to a place where the process never is, GDB would wait for ever."""
SHIMS = ("py::jit_shim", "_PyJIT_Entry")
"""3.14's and 3.15's, as the plugin names them."""
REGISTERS = ("rip", "rsp", "rbx", "rbp", "r12", "r13", "r14", "r15")
PR_SET_PDEATHSIG = 1
PR_SET_PTRACER, ANY_PROCESS = 0x59616D61, ctypes.c_ulong(-1)
LIBC = ctypes.CDLL(None)

# Each part of GDB's output follows a line "@@NAME". The caller of the JIT code is frame 1 to plain GDB, and
# frame 2 with the plugin, to which the shim is a frame of its own.
SCRIPT = """\
python
inside = 0
for step in range(MOST_STEPS):
    inside += any(start <= gdb.selected_frame().pc() < end for start, end in JIT_CODE)
    if inside == DEEP:
        break
    gdb.execute("stepi", to_string=True)
end
echo @@plain\\n
bt
echo @@plain registers\\n
frame 1
info registers REGISTERS
echo @@jitunwind\\n
LOAD
jitunwind-sync
bt
echo @@jitunwind registers\\n
frame 2
info registers REGISTERS
echo @@true registers\\n
python
if not (gdb.newest_frame().name() or "").startswith("py::weigh:"):
    raise gdb.GdbError("not in weigh(), which alone returns soon")
end
frame 1
finish
info registers REGISTERS
echo @@end\\n
"""
SETTINGS = (
    "set auto-load no",
    "set confirm off",
    "set pagination off",
    "set width 0",
    "set debuginfod enabled off",
    "set print frame-arguments presence",
    "set backtrace past-main on",
)


class CannotError(Exception):
    """Why there is no demonstration, in words that say what to do."""


@dataclass(frozen=True)
class Stop:
    """What one GDB said of one stop, without and with the plugin: frames as lines, the caller's registers as
    GDB writes them. `true_registers` is what the caller got back."""

    plain: list[str]
    jitunwind: list[str]
    plain_registers: dict[str, str]
    jitunwind_registers: dict[str, str]
    true_registers: dict[str, str]


# --- making the stop


def interpreter(version: str) -> Interpreter:
    """A JIT-enabled CPython, if possible with debug symbols."""
    arch = DEBIAN_NAMES.get(platform.machine(), platform.machine())
    try:
        return find(Request(version, arch, debug_symbols=True), refresh=False)
    except NoInterpreter:
        return find(Request(version, arch, debug_symbols=False), refresh=False)


def _in_child() -> None:
    """Die with the demonstration, and let GDB attach, which is no ancestor (prctl(2), Yama)."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    LIBC.prctl(PR_SET_PTRACER, ANY_PROCESS, 0, 0, 0)


@contextmanager
def hot_process(python: str) -> Iterator[int]:
    """The number of a process that runs hot.py, compiled by the JIT."""
    process = subprocess.Popen(
        [python, str(PROGRAM)],
        env={**os.environ, "PYTHON_JIT": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=_in_child,
    )
    with process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise CannotError(f"{python} {PROGRAM} has failed: see above")
            yield process.pid
        finally:
            process.kill()


def jit_code(pid: int) -> list[tuple[int, int]]:
    """The executable anonymous mappings (proc(5)), in which all JIT code lies."""
    found = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        extent, permissions, *_, inode = line.split()[:5]
        if "x" in permissions and inode == "0" and "[" not in line:
            start, end = extent.split("-")
            found.append((int(start, 16), int(end, 16)))
    if not found:
        raise CannotError(f"process {pid} has no JIT code")
    return found


def stop_once(gdb: str, pid: int, symbols: str | None) -> str:
    """All that GDB says."""
    words = {
        "MOST_STEPS": str(MOST_STEPS),
        "DEEP": str(DEEP),
        "JIT_CODE": repr(jit_code(pid)),
        "REGISTERS": " ".join(REGISTERS),
        "LOAD": load_line(),
    }
    script = re.sub("|".join(words), lambda match: words[match[0]], SCRIPT)
    settings = [*SETTINGS, f"set debug-file-directory {symbols}"] if symbols else SETTINGS
    early = [part for setting in settings for part in ("-iex", setting)]
    with tempfile.NamedTemporaryFile("w", suffix=".gdb") as file:
        file.write(script)
        file.flush()
        command = [gdb, "-nx", "-batch", *early, "-p", str(pid), "-x", file.name]
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=LONGEST_STOP,
        )
    return done.stdout


def stop(gdb: str, pid: int, symbols: str | None) -> Stop:
    """A stop whose innermost frame is JIT code. GDB attaches anywhere, so it may take a few tries."""
    said = ""
    for _ in range(MOST_TRIES):
        said = stop_once(gdb, pid, symbols)
        parts = dict(re.findall(r"^@@([a-z ]+)\n(.*?)(?=^@@|\Z)", said, re.MULTILINE | re.DOTALL))
        frames = {name: re.findall(r"^#\d.*", text, re.MULTILINE) for name, text in parts.items()}
        registers = {
            name: dict(re.findall(r"^(r\w+) +(0x[0-9a-f]+)", text, re.MULTILINE))
            for name, text in parts.items()
        }
        ours = frames.get("jitunwind", [])
        if "end" in parts and len(ours) > 1 and any(shim in ours[1] for shim in SHIMS):
            return Stop(
                frames["plain"],
                ours,
                registers["plain registers"],
                registers["jitunwind registers"],
                registers["true registers"],
            )
        if "Operation not permitted" in said:
            raise CannotError(
                "GDB may not attach: run as root; in a container, allow it with --cap-add=SYS_PTRACE"
            )
    raise CannotError(f"GDB did not stop in JIT code in {MOST_TRIES} tries. It said:\n{said}")


# --- showing it


def source(console: Console) -> None:
    text = Syntax("", "python", theme="ansi_dark").highlight(PROGRAM.read_text().rstrip("\n"))
    for number, line in enumerate(text.split("\n"), 1):
        console.print(Text.assemble((f"{number:4}  ", "dim"), line))


def frame_line(line: str) -> Text:
    return Text(line, "bold green" if "py::" in line else "red" if line.endswith("in ?? ()") else "")


def stacks(console: Console, found: Stop) -> None:
    """Side by side where there is room, one under the other where there is not."""
    columns = {"plain GDB": found.plain, "jitunwind": found.jitunwind}
    if console.is_terminal and console.width >= TWO_COLUMNS:
        table = Table(expand=True, show_lines=False)
        for heading in columns:
            table.add_column(heading, ratio=1, overflow="fold")
        table.add_row(*(Text("\n").join(map(frame_line, lines)) for lines in columns.values()))
        console.print(table, soft_wrap=False)
        return
    for heading, lines in columns.items():
        console.print(Text(f"\n{heading}:", "bold"))
        for line in lines:
            console.print(frame_line(line))


def register_table(console: Console, found: Stop) -> None:
    console.print(Text("\nThe registers of the function that called the JIT code:", "bold"))
    console.print(f"{'':5}{'plain GDB':28}{'jitunwind':28}the truth, after it has returned")
    for name in REGISTERS:
        truth = found.true_registers.get(name)
        line = Text(f"{name:5}")
        for registers in (found.plain_registers, found.jitunwind_registers):
            value = registers.get(name, "unknown")
            verdict, style = ("right", "green") if value == truth else ("WRONG", "bold red")
            line.append(f"{value:>18} ").append(f"{verdict:9}", style)
        console.print(line.append(f"{truth:>18}"))


def wrong(registers: dict[str, str], found: Stop) -> int:
    return sum(registers.get(name) != found.true_registers[name] for name in REGISTERS)


def is_whole(frames: list[str]) -> bool:
    return "_start ()" in frames[-1] and not any("corrupt" in frame for frame in frames)


def verdicts(console: Console, found: Stop) -> bool:
    """One line for each of the two; whether jitunwind's is what it should be."""
    console.print()
    good = False
    for heading, frames, registers in (
        ("plain GDB", found.plain, found.plain_registers),
        ("jitunwind", found.jitunwind, found.jitunwind_registers),
    ):
        functions = {name for frame in frames for name in re.findall(r"py::(?!jit)\w+", frame)}
        one_for_all = any("py::jit:executor" in frame for frame in frames)
        names = (
            f"names {len(functions)} Python functions and their lines"
            if functions
            else "one name for all JIT code"
            if one_for_all
            else "no name for JIT code"
        )
        end = "to _start" if is_whole(frames) else "and does NOT reach _start"
        count = wrong(registers, found)
        good = is_whole(frames) and bool(functions) and not count
        console.print(
            Text.assemble(
                (f"{heading}: ", "bold"),
                f"{len(frames)} frames {end}; {names}; ",
                (f"{count} of {len(REGISTERS)} registers wrong", "bold red" if count else "green"),
            )
        )
    return good


def show(console: Console, gdb: str, version: str) -> bool:
    """The demonstration for one version; whether jitunwind's answer was whole and true."""
    found = interpreter(version)
    console.print()
    console.print(Rule(f"CPython {found.version}, JIT on", characters="─" if console.is_terminal else "-"))
    with hot_process(found.python) as pid:
        stopped = stop(gdb, pid, found.debug_file_directory)
    stacks(console, stopped)
    register_table(console, stopped)
    return verdicts(console, stopped)


def main() -> int:
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    began = time.monotonic()
    try:
        gdb = find_gdb()
        console.print(Text("The program: tools/hot.py", "bold"))
        source(console)
        good = [show(console, gdb, version) for version in VERSIONS]
    except (CannotError, NoInterpreter, JitunwindError) as error:
        hint = getattr(error, "hint", "")
        print(f"demo: error: {error}" + (f"; {hint}" if hint else ""), file=sys.stderr)
        return 2
    except subprocess.TimeoutExpired:
        print(f"demo: error: GDB did not come back within {LONGEST_STOP} s", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    console.print(
        f"\nDone in {time.monotonic() - began:.1f} s. On a process of your own: .venv/bin/jitunwind bt PID"
    )
    if not all(good):
        print("demo: error: jitunwind's answer is not whole and true", file=sys.stderr)
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
