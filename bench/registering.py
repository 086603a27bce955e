"""What published regions cost GDB: in the agent's symbol files, which hold many, against a file for each.

    python bench/registering.py [GDB...]

Tables, names and lines are those of a real CPython, the files the agent's own; a small C program (registered.c) has
them, so that little else costs GDB time. Attaching: GDB's whole run, with a `bt` through three of the regions,
which must be right. Attached: how long the program waits for GDB at each batch of new regions. Without arguments:
the GDB on PATH.
"""

import ctypes
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count, cycle, islice
from pathlib import Path
from typing import NamedTuple

from support import ROOT, in_turns, running

sys.path.insert(0, str(ROOT))

from jitunwind.agent.library import GDB, Published, loaded_agent
from jitunwind.arch.x86_64.effects import decode
from jitunwind.arch.x86_64.registers import RBX, RETURN_ADDRESS, RSP, X86_64
from jitunwind.gdbplugin.launch import find_gdb
from jitunwind.jits import lines_of_piece
from jitunwind.jits.cpython.discovery import read_layout
from jitunwind.jits.cpython.regions import SHIM_NAME, Regions
from jitunwind.memory.process import LiveProcess
from jitunwind.publishing.described import described, frames_of
from jitunwind.recover.table import recover
from jitunwind.region import Line, Region
from jitunwind.rows import SAME_VALUE, CfaRule, RegisterRule, Row, SavedAt, Unknown, UnwindTable
from tests.support.announced import entries

VERSION = "3.14"
EXECUTORS = 100
ATTACH_TO = 5_000
ARRIVING, BATCH = 1_000, 10
ROUNDS = 3
FIRST, GAP, PAGE = 0x7E10_0000_0000, 0x2000, 0x1000
CALLED = bytes.fromhex(
    "53"  # push rbx
    "b851000000 83f001"  # mov eax, 0x51; xor eax, 1
    "4829c4"  # sub rsp, rax: no debugger knows by how much
    "4889fb 4883c708 ff13"  # mov rbx, rdi; add rdi, 8; call [rbx]
    "0f0b"  # ud2: what it calls does not return
)
CALL_AT = 0x13


class Known(NamedTuple):
    """A region, with what is published of it. Its first `entry` bytes are a shim; `lines` count from behind that."""

    region: Region
    table: UnwindTable
    lines: Sequence[Line]
    entry: int = 0

    def moved(self, start: int) -> "Known":
        return self._replace(region=self.region._replace(start=start))

    def published(self) -> Published:
        start, size = self.region.start, self.region.size
        body = self.region._replace(start=start + self.entry, size=size - self.entry)
        shim = Region(start, self.entry, SHIM_NAME) if self.entry else None
        return described(body, frames_of(X86_64, start, self.table), self.lines, shim)


def called_region(number: int) -> Known:
    """One that can be called: it calls the next."""

    def row(offset: int, rbx: RegisterRule) -> Row:
        rules: dict[int, RegisterRule] = dict.fromkeys(X86_64.callee_saved, SAME_VALUE)
        rules |= {RBX: rbx, RETURN_ADDRESS: SavedAt(-8)}
        return Row(CfaRule(RSP, offset), tuple(sorted(rules.items())))

    saved = SavedAt(-16)
    rows = (row(8, SAME_VALUE), row(16, saved), row(16 + 0x50, saved), Unknown("nothing"))
    table = UnwindTable(PAGE, (0, 1, 12, len(CALLED)), rows)
    lines = [Line(0, "/tmp/called.py", 1), Line(CALL_AT, "/tmp/called.py", 2)]
    return Known(Region(0, PAGE, f"py::called{number}:/tmp/called.py"), table, lines)


def real_executors() -> list[Known]:
    """What there is to publish of a real process's executors."""
    with running(VERSION, EXECUTORS) as pid, LiveProcess(pid) as memory:
        regions = Regions(memory, read_layout(memory))
        found = []
        for code in filter(None, map(regions.find, regions.starts)):
            *_, body = regions.parts(code)
            lines = lines_of_piece(code, body, regions.lines(code))
            table = recover(X86_64, code.data, decode, dict(code.entries))
            found.append(Known(Region(code.start, code.size, body.name), table, lines, code.gate_size))
        return found


def laid_out(executors: Sequence[Known], number: int) -> list[Known]:
    """That many regions, apart; the first, the last and one amidst them can be called."""
    calls = {0, number // 2, number - 1}
    found: list[Known] = []
    first = FIRST
    for index, each in enumerate(islice(cycle(executors), number)):
        found.append((called_region(index) if index in calls else each).moved(first))
        first = (found[-1].region.end + PAGE - 1 & -PAGE) + GAP
    return found


def callable_of(regions: Sequence[Known]) -> list[Region]:
    return [each.region for each in regions if each.region.name.startswith("py::called")]


class Publisher:
    """This process's agent, and what it has in its list for debuggers."""

    def __init__(self) -> None:
        self._handles: list[int] = []
        self._seen: dict[int, tuple[int, int]] = {}
        """Entry to its number, and its file's address."""

    def publish(self, regions: Sequence[Known]) -> list[tuple[int, bytes]]:
        """Publish `regions`; the entries that have changed by that, each as its number and its file."""
        self._handles += loaded_agent().publish([each.published() for each in regions], (GDB,))
        changed = []
        for entry in entries():
            place, file = ctypes.addressof(entry), entry.symbol_file
            number, before = self._seen.get(place, (len(self._seen), 0))
            if file != before:
                self._seen[place] = number, file
                changed.append((number, ctypes.string_at(file, entry.symbol_file_size)))
        return changed

    def withdraw(self) -> None:
        loaded_agent().withdraw(self._handles)
        self._handles.clear()
        self._seen.clear()


def grouped(batches: Sequence[Sequence[Known]]) -> list[list[tuple[int, bytes]]]:
    """The entries that each batch changes, as the agent has them."""
    publisher = Publisher()
    changes = [publisher.publish(batch) for batch in batches]
    publisher.withdraw()
    return changes


def single(batches: Sequence[Sequence[Known]]) -> list[list[tuple[int, bytes]]]:
    """The same with a file for each region."""
    publisher, numbers = Publisher(), count()

    def alone(region: Known) -> tuple[int, bytes]:
        [(_, file)] = publisher.publish([region])
        publisher.withdraw()
        return next(numbers), file

    return [[alone(each) for each in batch] for batch in batches]


class Program:
    """registered.c, running."""

    def __init__(self, process: subprocess.Popen[str], folder: Path, callable_: Sequence[Region]) -> None:
        self._process, self._folder, self._callable = process, folder, callable_

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, *words: object) -> str:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        print(*words, file=process.stdin, flush=True)
        return process.stdout.readline().strip()

    def put(self, entries: Sequence[tuple[int, bytes]]) -> float:
        """The seconds that a debugger took."""
        words: list[object] = []
        for number, data in entries:
            path = self._folder / str(number)
            path.write_bytes(data)
            words += [number, path]
        return float(self.ask("put", *words))

    def call(self) -> None:
        """Let the regions that can be called be on the stack."""
        assert self.ask("call", *(f"{each.start:x}" for each in self._callable)) == "called"


@contextmanager
def registered(regions: Sequence[Known]) -> Iterator[Program]:
    """The program with memory for those of `regions` that can be called; nothing is registered yet."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program, codes = folder / "registered", folder / "codes"
        source = str(ROOT / "bench" / "registered.c")
        subprocess.run(["cc", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-o", program, source], check=True)
        called = callable_of(regions)
        codes.write_text("".join(f"{each.start:x} {each.size:x} {CALLED.hex()}\n" for each in called))
        pipe = subprocess.PIPE
        process = subprocess.Popen([program, codes], stdin=pipe, stdout=pipe, text=True)
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield Program(process, folder, called)
        finally:
            process.kill()
            process.communicate()


def gdb_command(gdb: str, pid: int, *commands: str) -> list[str]:
    options = [gdb, "-nx", "-q", "-batch", "-iex", "set auto-load no", "-iex", "set debuginfod enabled off"]
    return [*options, "-p", str(pid), *(part for command in commands for part in ("-ex", command))]


def check(backtrace: str, regions: Sequence[Known]) -> None:
    """Figures of a GDB that has understood nothing are none."""
    called = [f"{each.name} () at /tmp/called.py:2" for each in reversed(callable_of(regions))]
    frames = re.findall(r"^#\d+ +(?:0x\w+ in )?(.*)", backtrace, re.MULTILINE)
    at = frames.index(called[0]) if called[0] in frames else 0
    callers = frames[at + len(called) :]
    if frames[at : at + len(called)] != called or not any(frame.startswith("main (") for frame in callers):
        raise SystemExit(f"a wrong backtrace:\n{backtrace}")


def attach(gdb: str, program: Program, regions: Sequence[Known] | None) -> None:
    done = subprocess.run(
        gdb_command(gdb, program.pid, "bt"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    if regions is not None:
        check(done.stdout, regions)


def attaching(gdb: str, regions: Sequence[Known]) -> str:
    with registered(regions) as one, registered(regions) as other, registered(regions) as none:
        [files], [singles] = grouped([regions]), single([regions])
        one.put(files)
        other.put(singles)
        for program in (one, other, none):
            program.call()
        seconds, their_seconds, ratio = in_turns(
            lambda: attach(gdb, one, regions), lambda: attach(gdb, other, regions), ROUNDS
        )
        bare, _, _ = in_turns(lambda: attach(gdb, none, None), lambda: None, ROUNDS)
    size, their_size = (sum(len(file) for _, file in each) / len(regions) for each in (files, singles))
    return (
        f"attach to {len(regions)} regions: in {len(files)} files {seconds:.2f} s, in {len(singles)} files "
        f"{their_seconds:.2f} s, ratio {ratio:.3f} (aim: at most 0.1); to none {bare:.2f} s; bytes of file "
        f"a region {size:.0f}, {their_size:.0f}"
    )


def waits(gdb: str, regions: Sequence[Known], changes: Sequence[Sequence[tuple[int, bytes]]]) -> list[float]:
    """How long the program, with GDB attached, waits for each of `changes`."""
    with registered(regions) as program:
        command = gdb_command(gdb, program.pid, r"echo attached\n", "continue", "bt")
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as debugger:
            assert debugger.stdout is not None
            while debugger.stdout.readline() not in ("attached\n", ""):
                pass
            seconds = [program.put(change) for change in changes]
            program.call()
            program.ask("trap")
            check(debugger.stdout.read(), regions)
    return seconds


def attached(gdb: str, regions: Sequence[Known]) -> str:
    batches = [regions[at : at + BATCH] for at in range(0, len(regions), BATCH)]
    ours, singles = waits(gdb, regions, grouped(batches)), waits(gdb, regions, single(batches))
    return (
        f"attached, {len(regions)} regions in batches of {BATCH}: the median batch {_ms(ours):.1f} ms, the last ten "
        f"{_ms(ours[-10:]):.1f} ms, all {sum(ours):.2f} s; with a file for each {_ms(singles):.1f} ms, "
        f"{_ms(singles[-10:]):.1f} ms, {sum(singles):.2f} s, ratio of all {sum(ours) / sum(singles):.2f}"
    )


def _ms(seconds: Sequence[float]) -> float:
    return statistics.median(seconds) * 1e3


def main() -> None:
    executors = real_executors()
    for gdb in sys.argv[1:] or [find_gdb()]:
        version = subprocess.run([gdb, "--version"], check=True, capture_output=True, text=True).stdout
        for figures in (
            attached(gdb, laid_out(executors, ARRIVING)),
            attaching(gdb, laid_out(executors, ATTACH_TO)),
        ):
            print(f"{version.splitlines()[0]}, CPython {VERSION}'s code: {figures}", flush=True)


if __name__ == "__main__":
    main()
