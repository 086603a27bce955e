"""Stacks that sampler.c takes in a process that a timer interrupts anywhere: the program run, the samples judged, and
compared with what GDB says at the same moment.

A walk is whole where it goes from the interrupted instruction to where the thread's stack began, comes to no frame
twice, and finds in the frame of `hold` what that keeps in callee-saved registers. A walk through JIT code that was not
published all the while is `late`, and not judged: the JIT goes on compiling, and new code is published a moment later.
"""

import json
import os
import subprocess
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from jitunwind.arch.aarch64.registers import AARCH64
from tests.support.live import (
    PATIENCE,
    REPOSITORY,
    Interpreter,
    fetched,
    function_names,
    gdb_command,
    run_gdb,
    running,
)
from tests.support.unwinders import FLAGS, KEPT, has_header, run

SUPPORT = REPOSITORY / "tests/support"
STOPS = SUPPORT / "stops.py"
WALKERS = ("backtrace", "unwind", "libunwind", "llvm")
"""Of sampler.c: sample_*.c. The first two are libgcc's unwinder, the third is nongnu libunwind's, the last LLVM's."""
PROGRAMS = (
    *("attributes", "calls", "calls_c", "deep", "exceptions", "floats", "generators", "loops", "recursion"),
    *("side_exits", "strings", "threads", "throws", "two_threads"),
)
PAGE = 4096
_FRAME_WORDS = 2 + len(KEPT)


@dataclass(frozen=True)
class Frame:
    """0, where the walker does not tell."""

    pc: int
    sp: int
    kept: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.pc:#x} sp {self.sp:#x} kept {' '.join(f'{value:#x}' for value in self.kept)}"


@dataclass(frozen=True)
class Sample:
    """`frames` from the interrupted one on; none, where the walk did not come to it."""

    thread: int
    is_first: bool
    pc: int
    frames: Sequence[Frame]


@dataclass(frozen=True)
class Verdicts:
    """Of all samples of a process but the threads' first."""

    count: int = 0
    in_jit_code: int = 0
    """Interrupted in published JIT code."""
    through_jit_code: int = 0
    """Published JIT code is on their stacks."""
    held: int = 0
    """Walks that came to `hold`, and had all its registers."""
    late: int = 0
    """Through JIT code that was not published all the while."""
    untold: int = 0
    """Interrupted in the interpreter's PLT, of which its file has no table (AArch64's)."""
    wrong: Counter[str] = field(default_factory=Counter)
    examples: Sequence[str] = ()

    def __add__(self, other: "Verdicts") -> "Verdicts":
        return Verdicts(
            self.count + other.count,
            self.in_jit_code + other.in_jit_code,
            self.through_jit_code + other.through_jit_code,
            self.held + other.held,
            self.late + other.late,
            self.untold + other.untold,
            self.wrong + other.wrong,
            [*self.examples, *other.examples],
        )

    def __str__(self) -> str:
        said = (
            f"{self.count} samples, {self.in_jit_code} in JIT code, {self.through_jit_code} through it, "
            f"{self.held} with the registers of `hold`, {self.late} through code not published yet, "
            f"{self.untold} in a PLT without a table"
        )
        return "\n".join([said, *(f"{count} × {what}" for what, count in self.wrong.items()), *self.examples])


class Samples:
    """What sampled.py wrote to `path` and beside it. `plt`: code that has no table in its file."""

    def __init__(self, path: Path, plt: range = range(0)) -> None:
        self._plt = plt
        words = array("Q")
        words.frombytes(path.read_bytes())
        self.hold, self.start = range(words[0], words[1]), range(words[2], words[3])
        self.samples = list(_samples(words))
        said = json.loads(Path(f"{path}.json").read_text())
        self._jit = [range(start, end) for start, end in said["jit"]]
        self._is_published = said["is_published"]
        self._published = set(said["before"]) & set(said["after"])

    def is_jit(self, pc: int) -> bool:
        return any(pc in each for each in self._jit)

    def is_published(self, pc: int) -> bool:
        """Whether it was all the while; where the program publishes nothing, all code is judged as if it were."""
        return not self._is_published or pc - pc % PAGE in self._published

    def is_judged(self, sample: Sample) -> bool:
        """Whether all JIT code that its walk came to was published all the while."""
        return all(self.is_published(frame.pc) for frame in sample.frames if self.is_jit(frame.pc))

    def judged(self) -> Verdicts:
        ends = {each.thread: each.frames[-1] for each in self.samples if each.is_first}
        count = inside = through = held = late = untold = 0
        wrong: Counter[str] = Counter()
        examples = []
        for sample in self.samples:
            if sample.is_first:
                continue
            count += 1
            if not self.is_judged(sample):
                late += 1
                continue
            if sample.pc in self._plt:
                untold += 1
                continue
            inside += self.is_jit(sample.pc)
            through += any(self.is_jit(frame.pc) for frame in sample.frames)
            problem = self._problem(sample, ends[sample.thread])
            if problem:
                if problem not in wrong:
                    examples.append("\n".join([problem, *map(str, sample.frames[:40])]))
                wrong[problem] += 1
            held += bool(self._held(sample))
        return Verdicts(count, inside, through, held, late, untold, wrong, examples)

    def _held(self, sample: Sample) -> bool:
        return any(frame.pc in self.hold and any(frame.kept) for frame in sample.frames[1:])

    def _problem(self, sample: Sample, end: Frame) -> str:
        """What is wrong with a walk; empty where nothing is."""
        if not sample.frames:
            return "the walk did not come to what was interrupted"
        places = [(frame.pc, frame.sp) for frame in sample.frames]
        knows_stack = any(frame.sp for frame in sample.frames)
        if knows_stack and len(set(places)) < len(places):
            return "the walk came to a frame twice"
        if knows_stack and any(frame.sp > outer.sp for frame, outer in pairwise(sample.frames)):
            return "the walk went back in the stack"
        if (sample.frames[-1].pc, sample.frames[-1].sp) != (end.pc, end.sp):
            return "the walk ended before the thread's outermost frame"
        for frame in sample.frames[1:]:  # where `hold` is interrupted it may have none yet
            if frame.pc in self.hold and any(frame.kept) and not {*KEPT} <= {*frame.kept}:
                return "the callee-saved registers of `hold` are lost"
        return ""


def _samples(words: Sequence[int]) -> Iterator[Sample]:
    at = 4
    while at < len(words):
        thread, is_first, pc, count = words[at : at + 4]
        at += 4
        frames = []
        for _ in range(count):
            frames.append(Frame(words[at], words[at + 1], tuple(words[at + 2 : at + _FRAME_WORDS])))
            at += _FRAME_WORDS
        first = next((index for index, frame in enumerate(frames) if frame.pc == pc), len(frames))
        last = len(frames) - bool(frames and not frames[-1].pc)  # what has no caller is called from 0
        yield Sample(thread, bool(is_first), pc, frames[first:last])


@dataclass(frozen=True)
class Sampling:
    """How often the program is interrupted: `count` times, every `microseconds` or so, on a stack of the handler's own
    (`alternate`) or on the thread's."""

    count: int
    microseconds: int = 150
    alternate: bool = False


@cache
def llvm_libunwind() -> str:
    """LLVM 19's libunwind.so.1, of Debian's package, which cannot be installed beside nongnu libunwind's headers."""
    return str(next(fetched("libunwind-19").glob("usr/lib/llvm-19/lib/libunwind.so.1")))


def sampler(python: Interpreter, folder: Path, walker: str) -> Path:
    """The folder of the extension `sampler` with that walker, and settings for programs that use it."""
    if walker == "libunwind" and not has_header(python.machine, "libunwind.h"):
        pytest.skip("no libunwind.h: `make setup` says what to install")
    place = folder / walker
    place.mkdir(exist_ok=True)
    sources = [SUPPORT / "sampler.c", SUPPORT / f"sample_{walker}.c"]
    libraries = ["-lunwind"] if walker == "libunwind" else []
    # A PLT has no table on AArch64, and what is interrupted in one cannot be walked from.
    gcc = [python.machine.compiler(), "-shared", "-fno-plt", *FLAGS, *python.includes]
    run(*gcc, "-o", place / "sampler.so", *sources, *libraries)
    return place


def settings(walker: str) -> Mapping[str, str]:
    """What the environment of a program that samples has in it for that walker."""
    return {"SAMPLER_LLVM": llvm_libunwind()} if walker == "llvm" else {}


def sampled(
    python: Interpreter, folder: Path, walker: str, program: str, how: Sampling, published: bool = True
) -> Samples:
    """The program, sampled from its being warm on."""
    found = folder / f"{walker}-{program}"
    arguments = [str(sampler(python, folder, walker)), program, *words(how), str(found)]
    done = subprocess.run(
        python.command("sampled", *arguments, published=published),
        env={**python.environment(), **settings(walker)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, f"{program} ended with {done.returncode}: {done.stderr}"
    return Samples(found, plt_of(python) if python.machine.arch is AARCH64 else range(0))


def plt_of(python: Interpreter) -> range:
    """The PLT of the interpreter's file, which lies where the file says (ET_EXEC)."""
    with open(python.python, "rb") as file:
        elf = ELFFile(file)
        section = elf.get_section_by_name(".plt")
        assert elf["e_type"] == "ET_EXEC"
        return range(section["sh_addr"], section["sh_addr"] + section["sh_size"])


def words(how: Sampling) -> list[str]:
    return [str(how.count), str(how.microseconds), str(int(how.alternate))]


@dataclass(frozen=True)
class Compared:
    """A sample, and the stack of the same moment by GDB: program counters, and registers where GDB has them."""

    sample: Sample
    pcs: Sequence[int]
    kept: Sequence[Sequence[int | None]]

    @property
    def differs(self) -> str:
        """Where the walker is not GDB's opinion; empty where it is."""
        if [frame.pc for frame in self.sample.frames] != list(self.pcs):
            return f"GDB has other frames\n{self}"
        for level, (frame, right) in enumerate(zip(self.sample.frames, self.kept, strict=True)):
            if any(frame.kept) and any(b not in (None, a) for a, b in zip(frame.kept, right, strict=True)):
                return f"GDB has other registers in frame {level}\n{self}"
        return ""

    def __str__(self) -> str:
        right = [
            f"{pc:#x} {' '.join('-' if value is None else f'{value:#x}' for value in kept)}"
            for pc, kept in zip(self.pcs, self.kept, strict=True)
        ]
        return "\n".join(["found:", *map(str, self.sample.frames), "GDB:", *right])


def held_against_gdb(
    python: Interpreter, folder: Path, walker: str, program: str, how: Sampling
) -> tuple[Samples, list[Compared]]:
    """The program, sampled, with GDB and the plugin attached: GDB stops it at the end of each sample, and walks."""
    found, gate, stacks = (folder / f"{walker}-{program}{end}" for end in ("", ".gate", ".stacks"))
    os.mkfifo(gate)
    opened = os.open(gate, os.O_RDWR)  # so that nobody waits for the other end
    arguments = [str(sampler(python, folder, walker)), program, *words(how), str(found), str(gate)]
    told = {"GATE": str(gate), "INTO": str(stacks), "COUNT": how.count}
    script = f"python import runpy; runpy.run_path({str(STOPS)!r}, {told!r})"
    try:
        with running(python, "sampled", *arguments, published=True, settings=settings(walker)) as started:
            run_gdb(
                gdb_command(python, "-p", str(started.pid), "-ex", script, symbols=function_names(python))
            )
            started.wait_for("sampled")
    finally:
        os.close(opened)
    samples = Samples(found)
    by_number = dict(enumerate(samples.samples))
    lines = [json.loads(line) for line in stacks.read_text().splitlines()]
    return samples, [Compared(by_number[each["number"]], each["pcs"], each["kept"]) for each in lines]
