"""perf, this machine's and that of Debian sid: it records a program, and its samples are read and judged.

perf's own files lie where it wants them; those of the processes that were recorded are removed.
"""

import math
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from jitunwind.jits.cpython.regions import NAME_PREFIX
from tests.support.fetched import fetched
from tools import debuggers

STOCK, SID = "6.1", "7.2"
PERFS = (STOCK, SID)
"""Debian 12's, which unwinds by libunwind, and sid's, by libdw."""
PATIENCE = 300
RATES = {"dwarf": 1999, "fp": 4999}
"""Samples a second of processor time, by the kind of call graph: reading those of the first takes longer. The only
event that a virtual machine has is cpu-clock."""
_PUBLISHER = "jitunwind"
"""The name of its thread."""
_RETURN = 0xC3
_UNKNOWN = "[unknown]"
_HEAD = re.compile(r"^(?P<name>.*\S)\s+(?P<pid>-?\d+)/(?P<tid>-?\d+)\s+(?P<time>[\d.]+):")
_FRAME = re.compile(r"^\s*(?P<at>[0-9a-f]+) (?P<symbol>.*) \((?P<object>[^()]*(?:\([^()]*\))?[^()]*)\)$")
_OF_MAP = re.compile(r"/perf-\d+\.map$")
_INJECTED = re.compile(r"/jitted-\d+-\d+\.so$")


class Frame(NamedTuple):
    """Symbol and file as perf names them."""

    at: int
    symbol: str
    object: str

    @property
    def is_named(self) -> bool:
        """JIT code that perf has a name of."""
        return self.symbol.startswith(NAME_PREFIX)

    @property
    def is_of_no_file(self) -> bool:
        return self.object in (_UNKNOWN, "//anon") or bool(_OF_MAP.search(self.object))

    @property
    def is_kernels(self) -> bool:
        return "[kernel" in self.object


class Sample(NamedTuple):
    """The innermost frame is the first."""

    name: str
    pid: int
    tid: int
    time: float
    frames: tuple[Frame, ...]

    @property
    def innermost(self) -> Frame:
        """Outside of the kernel."""
        return next((frame for frame in self.frames if not frame.is_kernels), self.frames[0])

    @property
    def python(self) -> str:
        """The innermost function whose JIT code runs, or has called what runs; empty: there is none."""
        named = (frame.symbol for frame in self.frames if frame.is_named)
        return next(named, "").removeprefix(NAME_PREFIX).partition(":")[0]

    @property
    def is_whole(self) -> bool:
        """To where a thread begins: `_start`; in others libc's clone3, which its exported symbols do not name."""
        last = self.frames[-1]
        return last.symbol == "_start" or (self.pid != self.tid and "/libc.so" in last.object)

    @property
    def is_whole_by_frame_pointers(self) -> bool:
        """To the function that calls Python's main program: libc keeps no frame pointer."""
        if self.pid != self.tid:
            return any("/libc.so" in frame.object for frame in self.frames[-3:])
        return any(frame.symbol == "Py_BytesMain" for frame in self.frames)

    @property
    def is_at_return(self) -> bool:
        """Whether the innermost function is about to return. Its frame pointer is the caller's again, and its
        compiler's table (GCC's) says that it lies below the stack pointer, where perf has no copy. So it is lost, and
        with it the caller's frame, if that is found by it: with the JIT off as well. perf 6.1 tells where an
        instruction is in its file, 7.2 where in memory, which is known of programs at a fixed place."""
        first = next((frame for frame in self.frames if not frame.is_kernels), None)
        return first is not None and _RETURN in _bytes_at(first.object, first.at)

    @property
    def is_at_clone(self) -> bool:
        """Whether a thread is making another one: libc's clone3 says that it has no caller, which is true of the new
        one alone."""
        *_, call, last = (Frame(0, "", ""), *self.frames)
        return call.symbol.startswith("entry_SYSCALL_64") and "/libc.so" in last.object

    @property
    def is_unnamed(self) -> bool:
        """Whether it has code of no file that nobody names: behind the last frame that is known is no code any more."""
        frames = [frame for frame in self.frames if not frame.is_kernels]
        last = max(
            (i for i, frame in enumerate(frames) if not frame.is_of_no_file or frame.is_named), default=0
        )
        return any(frame.is_of_no_file and not frame.is_named for frame in frames[: last + 1])


@dataclass
class Judged:
    """`samples` have JIT code in them; `others` are those of the same processes that were taken between them."""

    samples: list[Sample]
    others: list[Sample]
    by_frame_pointers: bool = False

    @property
    def cut(self) -> list[Sample]:
        if self.by_frame_pointers:
            return [each for each in self.samples if not each.is_whole_by_frame_pointers]
        return [each for each in self.samples if not each.is_whole] + [
            each for each in self.cut_in_c if not (each.is_at_return or each.is_at_clone)
        ]

    @property
    def cut_in_c(self) -> list[Sample]:
        """Those that are cut before any JIT code: no table of the JIT's was asked for."""
        return [each for each in self.others if not each.is_whole]

    @property
    def all(self) -> list[Sample]:
        return [*self.samples, *self.others]

    @property
    def unnamed(self) -> list[Sample]:
        """By frame pointers only the innermost frame is sure: through C code that has none perf sees frames that are
        not there."""
        if self.by_frame_pointers:
            return [each for each in self.samples if each.is_unnamed and each.innermost.is_of_no_file]
        return [each for each in self.samples if each.is_unnamed]

    def of(self, prefix: str) -> list[Sample]:
        """Those in functions whose names begin so."""
        return [each for each in self.samples if each.python.startswith(prefix)]


@cache
def command(version: str) -> tuple[str, ...]:
    """What runs that perf."""
    if version == SID:
        found = fetched("sid", *debuggers.OF_SID)
        return (*found.loader, str(found.root / "usr/bin/perf"))
    perf = shutil.which("perf")
    assert perf, "there is no perf: `make setup` installs it"
    return (perf,)


def recorded(
    version: str,
    program: Sequence[str],
    folder: Path,
    call_graph: str,
    environment: Mapping[str, str],
    injects: bool,
    says_when: bool = True,
) -> list[Sample]:
    """What perf records of a program and of what it starts; with `says_when` from the time on that the program prints.
    `injects`: with the JIT code that jitdump files have."""
    perf, data, injected = command(version), folder / "perf.data", folder / "injected.data"
    how = [
        "-k",
        "mono",
        "-e",
        "cpu-clock",
        "-F",
        str(RATES[call_graph.partition(",")[0]]),
        "--call-graph",
        call_graph,
    ]
    said = _run([*perf, "record", "-q", *how, "-o", str(data), *program], environment)
    begin = float(said) if says_when else 0.0
    if injects:
        _run([*perf, "inject", "--jit", "-i", str(data), "-o", str(injected)], environment)
        data = injected
    fields = ["-F", "comm,pid,tid,time,ip,sym,dso", "--no-inline"]
    samples = list(samples_in(_run([*perf, "script", "-i", str(data), *fields], environment)))
    for pid in {each.pid for each in samples}:
        remove_files(pid)
    return [each for each in samples if each.time >= begin]


def samples_in(text: str) -> Iterator[Sample]:
    """Those of perf script's output."""
    for block in text.split("\n\n"):
        head, *lines = block.strip("\n").split("\n")
        said = _HEAD.match(head)
        if said is None or not lines:
            continue
        frames = []
        for line in lines:
            frame = _FRAME.match(line)
            assert frame is not None, line
            frames.append(Frame(int(frame["at"], 16), frame["symbol"], frame["object"]))
        yield Sample(said["name"], int(said["pid"]), int(said["tid"]), float(said["time"]), tuple(frames))


def judged(samples: Sequence[Sample], name: str, by_frame_pointers: bool = False) -> Judged:
    """Those of processes of that name, from then on when they have it. Threads have other names; that which publishes
    executes code of libgcc, which has no frame pointers, and none of the JIT's."""
    since: dict[int, float] = {}
    for each in samples:
        if each.name == name:
            since[each.pid] = min(since.get(each.pid, each.time), each.time)
    ours = [
        each for each in samples if each.time >= since.get(each.pid, math.inf) and each.name != _PUBLISHER
    ]
    found = [each for each in ours if each.python or each.is_unnamed]
    first, last = (f((each.time for each in found), default=0.0) for f in (min, max))
    others = [each for each in ours if first <= each.time <= last and not (each.python or each.is_unnamed)]
    return Judged(found, others, by_frame_pointers)


@cache
def _bytes_at(path: str, at: int) -> bytes:
    """What a file has there, by its own count, and by the addresses that it asks for."""
    found = b""
    try:
        with open(path, "rb") as file:
            places = [at]
            for segment in ELFFile(file).iter_segments("PT_LOAD"):
                inside = at - segment["p_vaddr"]
                if 0 <= inside < segment["p_filesz"]:
                    places.append(segment["p_offset"] + inside)
            for place in places:
                file.seek(place)
                found += file.read(1)
    except (OSError, ELFError):
        pass
    return found


def remove_files(pid: int) -> None:
    """What perf, and a process for it, have left in /tmp."""
    for path in (
        *Path("/tmp").glob(f"jitted-{pid}-*.so"),
        Path(f"/tmp/jit-{pid}.dump"),
        Path(f"/tmp/perf-{pid}.map"),
    ):
        path.unlink(missing_ok=True)


def _run(words: Sequence[str], environment: Mapping[str, str]) -> str:
    done = subprocess.run(
        words,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=PATIENCE,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, (
        f"{words} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    )
    return done.stdout
