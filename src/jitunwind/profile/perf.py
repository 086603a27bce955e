"""A recording that perf takes of a command: all its processes, with the kernel's frames.

In comes a command, with an environment in which Pythons write a jitdump (startup/launch.py). perf records, injects and
prints it, in a folder that is removed. Out comes a `Recording` for the same writers. perf sees C, kernel and JIT code;
a function that the interpreter runs is a frame of `_PyEval_EvalFrameDefault` to it.
"""

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from jitunwind.errors import CannotStart, NotPermitted, PerfFailed, PerfMissing
from jitunwind.jits.known import function_of
from jitunwind.profile.recording import Frame, Kind, Origin, Recording

STACK_BYTES = 32 * 1024
"""What perf copies of each stack."""
_HOW = ("-k", "mono", "-e", "cpu-clock", "--call-graph", f"dwarf,{STACK_BYTES}")
"""cpu-clock is there in virtual machines, too. jitdumps have their times by that clock."""
_FIELDS = ("-F", "comm,pid,tid,time,ip,sym,dso", "--no-inline")
_UNKNOWN = "[unknown]"
_KERNEL = "[kernel"
_BOTTOMS = ("_start", "clone3", "__clone3", "clone", "__clone", "ret_from_fork_asm")
_LEVEL = Path("/proc/sys/kernel/perf_event_paranoid")
_CUT = f"perf has cut it: deeper than the {STACK_BYTES // 1024} KB that it copies, or not to be unwound by it"
_BEFORE_EXEC = ("perf", "perf-exec")
"""Names of the process before it is the command."""
_HEAD = re.compile(r"^(?P<name>.*\S)\s+(?P<pid>-?\d+)/(?P<tid>-?\d+)\s+(?P<time>[\d.]+):")
_FRAME = re.compile(r"^\s*(?P<at>[0-9a-f]+) (?P<symbol>.*) \((?P<file>[^()]*(?:\([^()]*\))?[^()]*)\)$")
_JIT_FILE = re.compile(r"/jitted-\d+-\d+\.so$")


class _Place(NamedTuple):
    """A frame as perf prints it."""

    at: int
    symbol: str
    file: str


def find_perf() -> str:
    """PerfMissing."""
    found = shutil.which("perf")
    if found is None:
        raise PerfMissing("perf is not installed")
    return found


def record(command: Sequence[str], environment: Mapping[str, str], rate: float) -> tuple[Recording, int]:
    """What perf records of `command` until it ends, `rate` times for each second that a thread runs; and the exit
    status, which perf gives on. CannotStart, PerfMissing, PerfFailed, NotPermitted."""
    perf = find_perf()
    if shutil.which(command[0]) is None:
        raise CannotStart(f"{command[0]} cannot be run", "name a program, behind all options")
    began = time.time()
    with tempfile.TemporaryDirectory(prefix="jitunwind-") as folder:
        data, injected = f"{folder}/perf.data", f"{folder}/jit.data"
        how = ("record", "-q", *_HOW, "-F", f"{rate:g}", "-o", data, "--", *command)
        done = subprocess.run(
            [perf, *how], env=dict(environment), check=False, stderr=subprocess.PIPE, text=True
        )
        if not Path(data).exists() or not Path(data).stat().st_size:
            raise _refusal(done.stderr)
        pids: set[int] = set()
        try:
            _run(perf, "inject", "--jit", "-i", data, "-o", injected)
            text = _run(perf, "script", "-i", injected, *_FIELDS)
            version = _run(perf, "--version").split()[-1]
            pids.update(int(pid) for pid in re.findall(_HEAD_PID, text))
            status = done.returncode if done.returncode >= 0 else 128 - done.returncode
            return _recording(text, list(command), rate, f"perf {version}", began), status
        finally:
            for pid in pids:
                _remove_files(pid)


_HEAD_PID = re.compile(r"^\S.*?\s(\d+)/-?\d+\s+[\d.]+:", re.MULTILINE)


def _run(perf: str, *arguments: str) -> str:
    done = subprocess.run(
        [perf, *arguments],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode:
        raise PerfFailed(f"perf {arguments[0]} failed: {_last_line(done.stderr)}")
    return done.stdout


def _refusal(said: str) -> PerfFailed | NotPermitted:
    """Why perf has recorded nothing."""
    if re.search("(?i)perf_event_paranoid|permi(t|ssion)", said):
        with suppress(OSError):
            level = _LEVEL.read_text().strip()
            return NotPermitted(
                f"perf may not record here: kernel.perf_event_paranoid is {level}",
                "sudo sysctl kernel.perf_event_paranoid=1, in a container allow perf_event_open; or leave --perf away",
            )
    return PerfFailed(f"perf recorded nothing: {_last_line(said)}")


def _last_line(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1] if lines else "it says nothing"


def _remove_files(pid: int) -> None:
    """What perf inject has made of a process's code, and what that had written for it."""
    for path in (*Path("/tmp").glob(f"jitted-{pid}-*.so"), Path(f"/tmp/jit-{pid}.dump")):
        with suppress(OSError):
            if path.stat().st_uid == os.geteuid():
                path.unlink()


# --- what perf prints


def _samples(text: str) -> Iterator[tuple[str, int, int, float, list[_Place]]]:
    """(name, pid, tid, time, frames from the innermost on) of each."""
    for block in text.split("\n\n"):
        head, *lines = block.strip("\n").split("\n")
        said = _HEAD.match(head)
        if said is not None and said["name"] not in _BEFORE_EXEC:
            found = (_FRAME.match(line) for line in lines)
            places = [_Place(int(each["at"], 16), each["symbol"], each["file"]) for each in found if each]
            yield said["name"], int(said["pid"]), int(said["tid"]), float(said["time"]), places


def _recording(text: str, command: list[str], rate: float, by: str, began: float) -> Recording:
    samples = sorted(_samples(text), key=lambda each: each[3])
    pid = samples[0][1] if samples else 0
    recording = Recording(Origin(pid, " ".join(command), 1 / rate, by, began=began))
    threads: dict[int, int] = {}
    first = samples[0][3] if samples else 0.0
    counts = recording.counts
    for name, pid, tid, at, places in samples:
        if tid not in threads:
            threads[tid] = recording.thread(tid, name)
        known = _without_garbage(places)
        if not known or not _is_bottom(known[-1], pid != tid):
            counts.cut += 1
            counts.reasons[_CUT] += 1
        frames = [_frame(place) for place in reversed(known)]
        counts.unnamed += any(frame.kind is Kind.JIT and not frame.is_named for frame in frames)
        recording.add(at - first, threads[tid], recording.stack(tuple(map(recording.frame, frames))))
    origin = recording.origin
    origin.seconds = samples[-1][3] - first if samples else 0.0
    counts.moments = round(origin.seconds * rate)
    if any(frame.kind is Kind.JIT for frame in recording.frames):
        origin.jit = True
    else:
        origin.notes.append("perf saw no JIT code in it")
    if any(frame.name == "_PyEval_EvalFrameDefault" for frame in recording.frames):
        origin.notes.append(
            "perf shows what the interpreter runs as _PyEval_EvalFrameDefault, without its function"
        )
    return recording


def _without_garbage(places: list[_Place]) -> list[_Place]:
    """Without what perf shows behind the last frame that is code of a file: where it was lost."""
    while places and places[-1].file == _UNKNOWN and function_of(places[-1].symbol) is None:
        places = places[:-1]
    return places


def _is_bottom(place: _Place, is_thread: bool) -> bool:
    """Where a thread begins: `_start`; in others libc's clone3, which has no name without debug symbols."""
    name = place.symbol
    return name in _BOTTOMS or place.file.startswith(_KERNEL) or (is_thread and "/libc.so" in place.file)


def _frame(place: _Place) -> Frame:
    name, is_named = place.symbol, place.symbol != _UNKNOWN
    if place.file.startswith(_KERNEL):
        return Frame(Kind.KERNEL, name, is_named=is_named)
    python = function_of(name)
    if python is not None:
        return Frame(Kind.JIT, python[0], python[1] or None)
    if _JIT_FILE.search(place.file) or place.file in (_UNKNOWN, "//anon"):
        return Frame(Kind.JIT, f"{place.at:#x}", is_named=False)
    if not is_named:
        name = f"{os.path.basename(place.file)}+{place.at:#x}"
    return Frame(Kind.NATIVE, name, module=place.file, is_named=is_named)
