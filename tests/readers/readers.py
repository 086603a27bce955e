"""The readers, each asked about every case: how it is built and run, what it says, in one form.

A reader within the process is a library that program.c is compiled with, of this machine or of Debian sid, with sid's
own libc. A debugger runs the same program. perf samples it. What they print is a list of frames, of which `_judged`
makes an `Answer`: each value is known by where it can only come from (enter.S).
"""

import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from jitunwind.arch.x86_64.registers import X86_64
from jitunwind.dwarf import decode
from jitunwind.errors import MalformedFrames
from jitunwind.rows import UNDEFINED, InRegister, Row, SameValue, SavedAt, Undefined, Unknown
from tests.readers.cases import BIG, CASES, END, R12, R14, RA, RBP, RBX, RETURN, RSP, SIZE, Answer
from tests.readers.layout import BASE, STRIDE, arena, laid_out
from tests.readers.recorded import NOT_ASKED, REFUSED
from tests.support.fetched import fetched
from tests.support.live import newest_gdb, newest_lldb
from tools import debuggers

FOLDER = Path(__file__).parent
REPOSITORY = FOLDER.parents[1]
STOCK, SID = "Debian 12", "Debian sid"
ALL = ("0", str(len(CASES)))
"""The arguments by which program.c calls each case's function."""
ENDLESS = 10
"""Frames of one program counter, one after the other, that are called endless."""
PATIENCE = 300
"""Seconds until a reader is given up: far more than any takes."""
_SAMPLES = 3
"""Fewer than that many equal stacks of perf's are no answer."""


class Frame(NamedTuple):
    """As a reader gives it: the stack pointer and rbx are None where it does not tell them."""

    pc: int
    sp: int | None = None
    rbx: int | None = None


class Known(NamedTuple):
    """Where things are in the program that was read: what `enter` returns to, `marks`, the CFA, the made frames."""

    back: int
    marks: int
    cfa: int
    frames: int
    registers: bool = True
    """Whether the reader tells them: otherwise the caller's frame is found by rbx, and tells it."""


@dataclass
class Said:
    """What a reader says in one case; `end`: how its list ends, "" if it does so by itself."""

    frames: list[Frame] = field(default_factory=list)
    end: str | None = None


class Reading(NamedTuple):
    version: str
    answers: Mapping[str, Answer]
    """By the name of a case."""


# --- from frames to answers


def _slot(value: int, known: Known) -> int | None:
    """n of the slot CFA-n in which the code has put this mark."""
    index, rest = divmod(value - known.marks, 16)
    return 16 + 8 * index if rest == 0 and 1 <= index <= 6 else None


def _rbx(value: int, known: Known) -> str:
    for index, name in enumerate(("saved", "kept", "r12")):
        if value == known.frames + 64 * index:
            return name
    if 0 < known.cfa - value <= 64:
        return f"CFA-{known.cfa - value}"
    if slot := _slot(value, known):
        return f"at CFA-{slot}"
    return "zero" if value == 0 else "garbage"


def _rbx_by_caller(pc: int, known: Known) -> str:
    """The rbx by which the caller's frame was found, to which this is the return address."""
    index, rest = divmod(pc - known.marks - 256, 16)
    if rest == 0 and 0 <= index < 3:
        return ("saved", "kept", "r12")[index]
    slot = _slot(pc, known)
    return f"CFA-{slot}" if slot else "garbage"


def _judged(index: int, said: Said, known: Known) -> Answer:
    start = BASE + STRIDE * index
    frames = said.frames
    if not frames:
        return Answer(said.end or "lost")
    if len(frames) == 1 or frames[1].pc == 0:  # libgcc shows the outermost frame's caller as 0
        return Answer(said.end or "none") if len(frames) == 1 else END
    caller = frames[1]
    if start <= caller.pc < start + SIZE:
        endless = len(frames) >= ENDLESS and all(frame.pc == caller.pc for frame in frames[1:ENDLESS])
        return Answer("itself" if endless else "itself, once")
    slot = _slot(caller.pc, known)
    ra = "caller" if caller.pc == known.back else f"CFA-{slot}" if slot else "garbage"
    if caller.sp is not None:
        cfa = caller.sp - known.cfa
    elif ra == "caller":
        cfa = 0
    else:
        return Answer(ra, 8 - slot if slot else None)
    if ra != "caller":
        return Answer(ra, cfa)
    by_its_pc = len(frames) > 2 and frames[2].pc == known.marks + 256 + 16 * 3
    if by_its_pc and CASES[index].standard.rbx == "signal":  # LLDB 14 looks there each time
        return Answer(ra, cfa, "signal")
    if known.registers:
        return Answer(ra, cfa, "unknown" if caller.rbx is None else _rbx(caller.rbx, known))
    return Answer(ra, cfa, _rbx_by_caller(frames[2].pc, known) if len(frames) > 2 else "unknown")


def _parsed(lines: Iterator[str], registers: bool) -> Iterator[tuple[int, Said, Known]]:
    """What program.c prints, or a script within a debugger, case by case."""
    known = Known(0, 0, 0, 0)
    index, said = -1, Said()
    for line in lines:
        word, *rest = line.split() or [""]
        if word == "known":
            known = Known(*(int(each, 16) for each in rest), registers=registers)
        elif word == "case":
            if index >= 0:
                yield index, said, known
            index, said = int(rest[0]), Said()
        elif word == "frame":
            said.frames.append(Frame(*(None if each == "-" else int(each, 16) for each in rest)))  # type: ignore[arg-type]
        elif word == "ended":
            said.end = "" if rest == ["0"] else REFUSED
        elif word == "died":
            said.end = "crash"
    if index >= 0:
        yield index, said, known


def _answers(lines: Iterator[str], registers: bool = True) -> dict[str, Answer]:
    found = {
        CASES[index].name: _judged(index, said, known) for index, said, known in _parsed(lines, registers)
    }
    missing = [case.name for case in CASES if case.name not in found]
    assert not missing, f"no answer about {missing}"
    return found


# --- building and running


class Workshop:
    """Programs are compiled, and the cases written, into a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def arena(self) -> Path:
        path = self.folder / "arena"
        path.write_bytes(arena())
        return path

    def program(self, name: str, *libraries: str) -> Path:
        """program.c with ask_NAME.c."""
        path = self.folder / f"ask_{name}"
        if not path.exists():
            sources = [FOLDER / "program.c", FOLDER / "enter.S", FOLDER / f"ask_{name}.c"]
            options = ["-O1", "-g", "-Wall", "-Wextra", "-Werror"]
            subprocess.run(["gcc", *options, "-o", path, *sources, *libraries], check=True)
        return path


def _run(*command: str | Path, **environment: str) -> str:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=PATIENCE,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


def _installed(package: str) -> str:
    """The version of a package of this machine."""
    return _run("dpkg-query", "-W", "-f", "${Version}", package)


def _first_number(*command: str) -> str:
    found = re.search(r"\d+\.\d[\d.]*", _run(*command))
    assert found is not None
    return found[0]


def _in_process(
    name: str, package: str, of_sid: str, *libraries: str, registers: bool = True
) -> dict[str, "Asking"]:
    """The same library, as this machine has it and as sid has it."""

    def here(workshop: Workshop) -> Reading:
        program = workshop.program(name, *libraries)
        lines = iter(_run(program, workshop.arena, *ALL).splitlines())
        return Reading(_installed(package), _answers(lines, registers))

    def sid(workshop: Workshop) -> Reading:
        found = fetched("sid", *debuggers.OF_SID)
        program = workshop.program(name, *libraries)
        lines = iter(_run(*found.loader, program, workshop.arena, *ALL).splitlines())
        return Reading(found.versions[of_sid], _answers(lines, registers))

    return {STOCK: here, SID: sid}


def _llvm(suite: str, package: str, library: str) -> "Asking":
    def ask(workshop: Workshop) -> Reading:
        found = fetched(suite, *(debuggers.OF_SID if suite == "sid" else (package,)))
        (path,) = found.root.glob(f"usr/lib/{library}")
        loader = found.loader if suite == "sid" else []
        program = workshop.program("llvm")
        said = _run(*loader, program, workshop.arena, *ALL, LLVM_LIBUNWIND=str(path))
        return Reading(found.versions[package], _answers(iter(said.splitlines())))

    return ask


def _debugger(
    command: Callable[[Path, Path, int], list[str | Path]], workshop: Workshop
) -> dict[str, Answer]:
    """A debugger that writes its answers to a file. If it dies, it begins again behind the case that killed it."""
    program, path = workshop.program("debugger"), workshop.folder / "answers"
    lines: list[str] = []
    first = 0
    while first < len(CASES):
        path.unlink(missing_ok=True)
        done = subprocess.run(
            command(program, workshop.arena, first),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE,
            env={**os.environ, "ANSWERS": str(path), "FIRST": str(first)},
        )
        known = [line for line in done.stdout.splitlines() if line.startswith("known ")]
        assert known, f"{done.args} said:\n{done.stdout}{done.stderr}"
        said = path.read_text().splitlines()
        lines += [*known, *said]
        if done.returncode == 0:
            break
        assert done.returncode < 0, f"{done.args} said:\n{done.stdout}{done.stderr}"
        last = [line for line in said if line.startswith("case ")][-1]
        lines += [last, "died"]
        first = int(last.split()[1]) + 1
    return _answers(iter(lines))


def _gdb(find: Callable[[], str]) -> "Asking":
    def ask(workshop: Workshop) -> Reading:
        gdb = find()

        def command(program: Path, arena: Path, first: int) -> list[str | Path]:
            early = ["-nx", "-q", "-batch", "-iex", "set auto-load no", "-iex", "set startup-with-shell off"]
            return [gdb, *early, "-x", FOLDER / "in_gdb.py", "--args", program, arena, str(first), ALL[1]]

        return Reading(_run(gdb, "--version").splitlines()[0].split()[-1], _debugger(command, workshop))

    return ask


_LLDB_REGISTER = re.compile(r"^\s*(rip|rsp|rbx)\s+= (0x[0-9a-f]+|error)", re.MULTILINE)


def _lldb(find: Callable[[], str]) -> "Asking":
    """By its commands, as its Python is not always there; frames 1 to 3, and one far out."""
    levels = (1, 2, 3, ENDLESS)

    def ask(workshop: Workshop) -> Reading:
        lldb = find()
        script = workshop.folder / "lldb"
        each = "".join(f"frame select {level}\nregister read rip rsp rbx\n" for level in levels)
        script.write_text("breakpoint set --name ask\nprocess launch\n" + (each + "continue\n") * len(CASES))
        program = workshop.program("debugger")
        go_on = "settings set interpreter.stop-command-source-on-error false"
        said = _run(
            lldb, "--no-lldbinit", "--batch", "-O", go_on, "-s", script, "--", program, workshop.arena, *ALL
        )
        known = next(line for line in said.splitlines() if line.startswith("known "))
        lines = [known]
        for index, stop in enumerate(said.split("(lldb) continue")[: len(CASES)]):
            lines.append(f"case {index}")
            frames = {}
            for level, part in zip(levels, stop.split("(lldb) frame select")[1:], strict=True):
                found = dict(_LLDB_REGISTER.findall(part))
                if "Frame index" not in part and "rip" in found:
                    pc, sp, rbx = (
                        found.get(name, "-").replace("error", "-") for name in ("rip", "rsp", "rbx")
                    )
                    frames[level] = f"frame {pc} {sp} {rbx}"
            if ENDLESS in frames:  # those between are as it is
                lines += [frames[1]] * ENDLESS
            else:
                lines += [*frames.values(), "ended 0"]
        return Reading(_first_number(lldb, "--version"), _answers(iter(lines)))

    return ask


def system_lldb() -> str:
    found = shutil.which("lldb") or shutil.which("lldb-14")
    assert found, "there is no lldb: `make setup` says what to install"
    return found


_PERF_FRAME = re.compile(r"^\s+[0-9a-f]+ (\S+)\+0x([0-9a-f]+) \(", re.MULTILINE)
_BACK, _MARKS = 1 << 40, 1 << 41


def _perf(of_sid: bool) -> "Asking":
    def ask(workshop: Workshop) -> Reading:
        if of_sid:
            found = fetched("sid", *debuggers.OF_SID)
            perf: list[str | Path] = [*found.loader, found.root / "usr/bin/perf"]
            of_package = found.versions["linux-perf"]
        else:
            perf, of_package = ["perf"], _installed("linux-perf")
        # The last case in a run of its own: libunwind keeps rows by pc, and would take another case's for its caller.
        last = len(CASES) - 1
        samples = [
            sample
            for span in ((0, last), (last, len(CASES)))
            for sample in _sampled(perf, workshop, *map(str, span))
        ]
        stacks: list[Counter[tuple[Frame, ...]]] = [Counter() for _ in CASES]
        for sample in samples:
            names = _PERF_FRAME.findall(sample)
            if len(names) > 1 and names[0][0] == "ask" and names[1][0].startswith("case_"):
                stacks[int(names[1][0][5:])][tuple(_perf_frame(*each) for each in names[1:])] += 1
        known = Known(_BACK, _MARKS, 0, 0, registers=False)
        answers = {}
        for index, (case, counts) in enumerate(zip(CASES, stacks, strict=True)):
            if not case.is_relative:  # perf puts code and table into a file, which has other addresses
                answers[case.name] = Answer(NOT_ASKED)
                continue
            (frames, count), *_ = counts.most_common(1) or [((), 0)]
            assert count >= _SAMPLES, f"perf has {count} samples of {case.name}"
            answers[case.name] = _judged(index, Said(list(frames), ""), known)
        return Reading(of_package, answers)

    return ask


def _sampled(perf: list[str | Path], workshop: Workshop, *span: str) -> list[str]:
    """What `perf script` says of each sample of those cases."""
    recorded, injected = workshop.folder / "recorded", workshop.folder / "injected"
    how = ["-k", "mono", "-e", "cpu-clock", "-F", "3000", "--call-graph", "dwarf,8192"]
    program = workshop.program("perf")
    said = _run(*perf, "record", "-q", *how, "-o", recorded, program, workshop.arena, *span)
    try:
        _run(*perf, "inject", "--jit", "-i", recorded, "-o", injected)
        script = ["script", "-i", injected, "-F", "ip,sym,symoff,dso", "--no-inline"]
        return _run(*perf, *script).split("\n\n")
    finally:
        for pid in re.findall(r"^process (\d+)$", said, re.MULTILINE):
            _tidy(pid)


def _perf_frame(symbol: str, offset: str) -> Frame:
    """perf shows what lies before a return address; -F symoff says how far from the symbol."""
    behind = int(offset, 16) + 1
    if symbol.startswith("case_"):
        return Frame(BASE + STRIDE * int(symbol[5:]) + behind)
    if symbol == "enter_by_rbx":
        return Frame(_BACK)
    return Frame(_MARKS + behind if symbol == "marks" else 1)


def _tidy(pid: str) -> None:
    """perf record's and perf inject's files, whose place is perf's choice."""
    for path in Path("/tmp").glob(f"jitted-{pid}-*.so"):
        path.unlink()
    Path(f"/tmp/jit-{pid}.dump").unlink(missing_ok=True)


# --- decoders


def _of_row(row: Row | Unknown, is_signal: bool) -> Answer:
    """What a row says of the state at the call."""
    if isinstance(row, Unknown):
        return Answer(REFUSED)
    base = {RSP: -64, RBP: -64, R14: -BIG}.get(row.cfa.register)
    rules = dict(row.rules)
    ra, rbx = rules.get(RA, UNDEFINED), rules.get(RBX)
    if isinstance(ra, Undefined):
        return END
    if base is None or not isinstance(ra, SavedAt):
        return Answer("garbage")
    cfa = base + row.cfa.offset
    place = cfa + ra.offset
    if place != -8:
        return Answer(f"CFA{place}", cfa)
    if is_signal:
        return Answer("caller", cfa, "signal")
    if isinstance(rbx, SavedAt):
        place = cfa + rbx.offset
        return Answer("caller", cfa, "saved" if place == -16 else f"at CFA{place}")
    if isinstance(rbx, InRegister):
        return Answer("caller", cfa, "r12" if rbx.register == R12 else "garbage")
    return Answer("caller", cfa, "kept" if isinstance(rbx, SameValue) else "unknown")


def _decoder(workshop: Workshop) -> Reading:
    """jitunwind's own."""
    pc = BASE + RETURN - 1
    answers = {}
    for case in CASES:
        laid = laid_out(case, BASE)
        answer = END
        try:
            for fde in decode.eh_frame(laid.table, laid.table_address):
                if fde.start <= pc < fde.start + fde.size:
                    row = decode.table_of(fde, X86_64.callee_saved).at(pc - fde.start)
                    answer = _of_row(row, fde.cie.signal_frame)
        except MalformedFrames:
            answer = Answer(REFUSED)
        answers[case.name] = answer
    return Reading("", answers)


Asking = Callable[[Workshop], Reading]


@dataclass(frozen=True)
class Reader:
    """A column of the page: a program or library in several versions, by the name of each."""

    name: str
    told: str
    """How it is told of the table."""
    versions: Mapping[str, Asking]


_libgcc = _in_process("libgcc", "libgcc-s1", "libgcc-s1")
_libunwind = _in_process("libunwind", "libunwind8", "libunwind8", "-lunwind")
_libdw = _in_process("libdw", "libdw1", "libdw1t64", "-ldw", "-lelf", registers=False)

READERS = (
    Reader("libgcc", "by `__register_frame`", {"12": _libgcc[STOCK], "16": _libgcc[SID]}),
    Reader("libunwind", "by `_U_dyn_register`", {"1.6": _libunwind[STOCK], "1.8": _libunwind[SID]}),
    Reader(
        "LLVM's libunwind",
        "by `__register_frame` of each FDE",
        {
            "14": _llvm("bookworm", "libunwind-14", "llvm-14/lib/libunwind.so.1"),
            "19": _llvm("bookworm", "libunwind-19", "llvm-19/lib/libunwind.so.1"),
            "23": _llvm("sid", "llvm-libunwind1", "*-linux-gnu/libunwind.so.1"),
        },
    ),
    Reader("libdw", "by an ELF file", {"0.188": _libdw[STOCK], "0.196": _libdw[SID]}),
    Reader("GDB", "by its JIT interface", {"13": _gdb(lambda: "gdb"), "18": _gdb(newest_gdb)}),
    Reader("LLDB", "by GDB's JIT interface", {"14": _lldb(system_lldb), "19": _lldb(newest_lldb)}),
    Reader("perf", "by a jitdump", {"6.1": _perf(of_sid=False), "7.2": _perf(of_sid=True)}),
    Reader("jitunwind's decoder", "the table alone", {"": _decoder}),
)
