"""One process that is stuck in C code under JIT code, and what each tool says of it.

`look` starts stuck.py with the JIT on, and feeds it until its loops are compiled. Then it waits for input in read(),
which JIT code has called, and plain GDB, py-spy, pystack and jitunwind are asked in turn, as a person would. At last
the input comes: GDB, with jitunwind's plugin, has the JIT code return, and reads the registers that its caller really
gets back. For comparison, the others are asked of a process with the JIT off as well. demo.py and bench/readme.py show
what comes out.
"""

import ctypes
import fcntl
import json
import os
import platform
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from debian_packages import DEBIAN_NAMES
from debian_packages import CannotError as NoInterpreter
from interpreters import Interpreter, Request, find
from jitunwind.gdbplugin.launch import load_line
from symbols import debug_file, with_symbols

TOOLS = Path(__file__).parent
PROGRAM = TOOLS / "stuck.py"
INNERMOST = "weigh"
"""The function of PROGRAM that calls read()."""
INPUT = 400_000
"""Bytes that PROGRAM reads until it is stuck: it is compiled by then."""
REST = 100
"""Bytes with which INNERMOST surely returns."""
MOST_TRIES = 10
PATIENCE = 120
"""Seconds until a tool counts as one that never ends. `finish` to a place where the process never is would not."""
REGISTERS = ("rip", "rsp", "rbx", "rbp", "r12", "r13", "r14", "r15")
PR_SET_PDEATHSIG = 1
PR_SET_PTRACER, ANY_PROCESS = 0x59616D61, ctypes.c_ulong(-1)
LIBC = ctypes.CDLL(None)


@dataclass(frozen=True)
class Peer:
    """Another tool, and its arguments before the process number."""

    name: str
    arguments: str


PEERS = (Peer("py-spy", "dump --native --pid"), Peer("pystack", "remote --native"))

# Each part of GDB's output follows a line "@@NAME". The caller of the JIT code is the next frame to plain GDB, and the
# one after that with the plugin, to which the shim is a frame of its own.
PLAIN = """\
echo @@frames\\n
bt
echo @@registers\\n
python
def jit_frame():
    frame = gdb.newest_frame()
    while not any(start <= frame.pc() < end for start, end in JIT_CODE):
        frame = frame.older()
    return frame
caller = jit_frame().older()
if caller is not None:
    caller.select()
    gdb.execute("info registers REGISTERS")
end
echo @@counters\\n
python
frame = gdb.newest_frame()
while frame is not None:
    if frame.type() != gdb.INLINE_FRAME:
        print(hex(frame.pc()))
    frame = frame.older()
end
echo @@end\\n
"""
JUST_FRAMES = PLAIN.partition("echo @@registers")[0] + "echo @@end\\n"
WITH_PLUGIN = (
    """\
LOAD
jitunwind-sync
"""
    + PLAIN.replace("caller = jit_frame()", "caller = jit_frame().older()").replace("@@end", "@@finish")
    + """\
python
jit_frame().older().select()
with open(f"/proc/{gdb.selected_inferior().pid}/fd/0", "wb") as input:
    input.write(bytes(REST))
end
finish
echo @@true registers\\n
info registers REGISTERS
echo @@end\\n
"""
)
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
class Answer:
    """What a tool says: the tool with its version, the command that a person would type, and the lines. `failure` is
    why there are none, or not those that were asked for; empty otherwise."""

    tool: str
    version: str
    command: str
    lines: list[str]
    failure: str = ""


@dataclass(frozen=True)
class Look:
    """What the tools say of one process. The registers are those of the JIT code's caller, as GDB writes them; the
    true ones are those that it got back. `stack` has the frames of `jitunwind bt --json`."""

    python: str
    answers: list[Answer]
    stack: list[dict[str, Any]]
    plain_counters: list[int]
    plain_registers: dict[str, str]
    jitunwind_registers: dict[str, str]
    true_registers: dict[str, str]
    is_complete: bool
    off: dict[str, tuple[int, int]]
    """For each tool that was asked with the JIT off: how many C functions it named there, and of how many."""

    def functions(self) -> list[str]:
        """The C functions on the stack that have a name."""
        frames = [frame for frame in self.stack if frame["kind"] == "native"]
        return [bare(frame["name"]) for frame in frames if "+0x" not in frame["name"]]

    def made_up(self) -> int:
        """How many frames plain GDB has that are none."""
        true = {int(frame["pc"], 16) for frame in self.stack if frame["kind"] != "python"}
        return sum(counter not in true for counter in self.plain_counters)

    def wrong(self, registers: dict[str, str]) -> int:
        return sum(registers.get(name) != self.true_registers[name] for name in REGISTERS)

    def python_functions(self) -> list[str]:
        """The Python functions that JIT frames are named after, with their lines."""
        frames = [frame for frame in self.stack if frame["kind"] == "jit" and frame["line"] is not None]
        return [f"{frame['name'].removeprefix('py::').partition(':')[0]}:{frame['line']}" for frame in frames]

    def is_right(self) -> bool:
        """Whether jitunwind's answer is whole and true."""
        has_line = any(name.startswith(f"{INNERMOST}:") for name in self.python_functions())
        return self.is_complete and has_line and not self.wrong(self.jitunwind_registers)


def bare(name: str) -> str:
    """A function's name without what compilers and debuggers add (`os_read.lto_priv.0`)."""
    return name.partition(".")[0]


def named(answer: Answer, functions: list[str]) -> int:
    """How many of the functions a tool names."""
    source = {line.strip() for line in PROGRAM.read_text().splitlines()}
    frames = [line for line in answer.lines if line.strip() not in source]
    words = Counter(re.findall(r"\w+", "\n".join(frames)))
    return sum((words & Counter(functions)).values())


# --- the process


def interpreter(version: str) -> Interpreter:
    """A JIT-enabled CPython, if possible with debug symbols."""
    arch = DEBIAN_NAMES.get(platform.machine(), platform.machine())
    try:
        return find(Request(version, arch, debug_symbols=True), refresh=False)
    except NoInterpreter:
        return find(Request(version, arch, debug_symbols=False), refresh=False)


def _in_child() -> None:
    """Die with the demonstration, and let tools attach that are no ancestors (prctl(2), Yama)."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    LIBC.prctl(PR_SET_PTRACER, ANY_PROCESS, 0, 0, 0)


@contextmanager
def stuck_process(python: Path, size: int, jit: bool = True) -> Iterator[int]:
    """The number of a process that runs PROGRAM, and waits in read() after `size` bytes."""
    process = subprocess.Popen(
        [python, str(PROGRAM)],
        env={**os.environ, "PYTHON_JIT": str(int(jit))},
        stdin=subprocess.PIPE,
        preexec_fn=_in_child,
    )
    try:
        assert process.stdin is not None
        process.stdin.write(bytes(size))
        process.stdin.flush()
        until = time.monotonic() + PATIENCE
        while not waits_for_input(process.pid, process.stdin.fileno()):
            if process.poll() is not None or time.monotonic() > until:
                raise CannotError(f"{python} {PROGRAM} does not wait for input")
            time.sleep(0.01)
        yield process.pid
    except BrokenPipeError:
        raise CannotError(f"{python} {PROGRAM} has failed: see above") from None
    finally:
        process.kill()
        process.communicate()


def waits_for_input(pid: int, pipe: int) -> bool:
    """Whether the process sleeps (proc_pid_stat(5)), and has read all that is in the pipe (FIONREAD, pipe(7))."""
    (unread,) = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return not unread and state == "S"


def jit_code(pid: int) -> list[tuple[int, int]]:
    """The executable anonymous mappings (proc_pid_maps(5)), in which all JIT code lies."""
    found = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        extent, permissions, *_, inode = line.split()[:5]
        if "x" in permissions and inode == "0" and "[" not in line:
            start, end = extent.split("-")
            found.append((int(start, 16), int(end, 16)))
    return found


# --- the tools


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """OSError or subprocess.TimeoutExpired where it cannot be run, or does not end."""
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=PATIENCE,
    )


def debug(gdb: str, pid: int, script: str) -> dict[str, str]:
    """What GDB says in the parts of a script, by their names."""
    words = {
        "JIT_CODE": repr(jit_code(pid)),
        "REGISTERS": " ".join(REGISTERS),
        "REST": str(REST),
        "LOAD": load_line(),
    }
    filled_in = re.sub(rf"\b({'|'.join(words)})\b", lambda match: words[match[0]], script)
    early = [part for setting in SETTINGS for part in ("-iex", setting)]
    with tempfile.NamedTemporaryFile("w", suffix=".gdb") as file:
        file.write(filled_in)
        file.flush()
        done = run([gdb, "-nx", "-batch", *early, "-p", str(pid), "-x", file.name])
    if "Operation not permitted" in done.stderr:
        raise CannotError(
            "GDB may not attach: run as root; in a container, allow it with --cap-add=SYS_PTRACE"
        )
    parts = dict(re.findall(r"^@@([a-z ]+)\n(.*?)(?=^@@|\Z)", done.stdout, re.MULTILINE | re.DOTALL))
    if "end" not in parts:
        raise CannotError(f"GDB has failed. It said:\n{done.stdout}{done.stderr}")
    return parts


def registers(text: str) -> dict[str, str]:
    return dict(re.findall(r"^(r\w+) +(0x[0-9a-f]+)", text, re.MULTILINE))


def ask(peer: Peer, pid: int) -> Answer:
    """What another tool says, or why it says nothing."""
    command = f"{peer.name} {peer.arguments} {pid}"
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    path = shutil.which(peer.name, path=beside)
    if path is None:
        return Answer(peer.name, "", command, [], "it is not installed; `make setup` gets it from PyPI")
    version = ""
    try:
        version = run([path, "--version"]).stdout.strip().rpartition(" ")[2]
        done = run([path, *command.split()[1:]])
    except subprocess.TimeoutExpired:
        return Answer(peer.name, version, command, [], f"it did not end within {PATIENCE} s")
    except OSError as error:
        return Answer(peer.name, version, command, [], f"it cannot be run: {error.strerror}")
    failure = ""
    if done.returncode:
        failure = f"exit status {done.returncode}\n{done.stderr.strip()}".rstrip()
    return Answer(peer.name, version, command, done.stdout.rstrip().splitlines(), failure)


def ask_jitunwind(pid: int) -> tuple[Answer, dict[str, Any]]:
    """The page that `jitunwind bt` prints, and what its JSON has of the one thread."""
    command = [sys.executable, "-m", "jitunwind", "bt", str(pid)]
    page, data = run(command), run([*command, "--json"])
    if not data.stdout:
        raise CannotError(f"jitunwind bt has failed: {data.stderr.strip()}")
    said = json.loads(data.stdout)
    version = metadata.version("jitunwind")
    answer = Answer("jitunwind", version, f"jitunwind bt {pid}", page.stdout.rstrip().splitlines())
    return answer, said


def is_as_meant(stack: list[dict[str, Any]]) -> bool:
    """Whether the innermost JIT frame, if there is any, is INNERMOST's: it alone returns soon. It may have been in the
    first round of its loop, which the interpreter runs."""
    functions = [frame["name"] for frame in stack if frame["kind"] == "jit"]
    return bool(functions) and INNERMOST in functions[0]


def ask_gdb(gdb: str, pid: int, said: dict[str, str]) -> Answer:
    version = run([gdb, "--version"]).stdout.splitlines()[0].rpartition(" ")[2]
    frames = re.findall(r"^#\d.*", said["frames"], re.MULTILINE)
    return Answer("plain GDB", version, f"gdb -batch -p {pid} -ex bt", frames)


def look_without_jit(gdb: str, python: Path) -> dict[str, tuple[int, int]]:
    """How many C functions each tool names with the JIT off, and of how many: plain GDB is right there."""
    with stuck_process(python, INPUT, jit=False) as pid:
        plain = ask_gdb(gdb, pid, debug(gdb, pid, JUST_FRAMES))
        answers = [plain, *(ask(peer, pid) for peer in PEERS)]
    names = re.findall(r" in ([\w.]+) \(", "\n".join(plain.lines))
    functions = [bare(name) for name in names]
    return {
        answer.tool: (named(answer, functions), len(functions)) for answer in answers if not answer.failure
    }


def look(gdb: str, found: Interpreter) -> Look:
    """What the tools say of one process whose innermost JIT frame is that of INNERMOST."""
    with tempfile.TemporaryDirectory(prefix="jit") as folder:
        python = Path(found.python)
        if found.debug_file_directory and (file := debug_file(python, Path(found.debug_file_directory))):
            python = with_symbols(python, file, Path(folder))
        for attempt in range(MOST_TRIES):
            with stuck_process(python, INPUT + attempt) as pid:
                ours, said = ask_jitunwind(pid)
                stack = said["threads"][0]["frames"]
                if not is_as_meant(stack):
                    continue
                plain = debug(gdb, pid, PLAIN)
                peers = [ask(peer, pid) for peer in PEERS]
                plugin = debug(gdb, pid, WITH_PLUGIN)
            return Look(
                found.version,
                [ask_gdb(gdb, pid, plain), *peers, ours],
                stack,
                [int(line, 16) for line in plain["counters"].split()],
                registers(plain["registers"]),
                registers(plugin["registers"]),
                registers(plugin["true registers"]),
                said["complete"],
                look_without_jit(gdb, python),
            )
    raise CannotError(
        f"in {MOST_TRIES} tries {INNERMOST}() was never stuck in JIT code; the last stack: {stack}"
    )
