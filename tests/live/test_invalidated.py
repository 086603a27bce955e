"""Code that runs and belongs to no executor that any list has: sys.settrace has invalidated them all meanwhile."""

import json

import pytest

from jitunwind.jits.cpython.jit import CPythonJit
from jitunwind.memory.process import LiveProcess
from tests.live.test_builds import build
from tests.support.live import VERSIONS
from tests.support.processes import PROGRAMS, SHIMS, Program, interpreter, jitunwind

PROGRAM = PROGRAMS / "invalidated.py"


@pytest.mark.live
@pytest.mark.parametrize("kind", ["release", "pydebug"])
@pytest.mark.parametrize("version", VERSIONS)
def test_its_frames_are_whole_exact_and_named(version: str, kind: str) -> None:
    python = interpreter(version) if kind == "release" else build(version, kind)
    with Program([python, PROGRAM]) as program:
        program.settle()
        done = jitunwind("bt", "--json", program.pid)
        with LiveProcess(program.pid) as memory:
            listed = CPythonJit(memory).regions.executors.by_start
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    frames = said["threads"][0]["frames"]
    found = [frame for frame in frames if frame["kind"] == "jit"]
    for frame in found:
        at = int(frame["pc"], 16)
        assert not any(start <= at < start + each.jit_size for start, each in listed.items()), (
            "it is in a list"
        )
    jit = found[-1]  # what it calls may have become JIT code, too
    assert (jit["function"], jit["file"]) == ("work", str(PROGRAM))
    assert "key=invalidate" in PROGRAM.read_text().splitlines()[jit["line"] - 1]
    shim = frames[jit["index"] + 1]
    assert (shim["kind"], shim["name"]) == ("shim", SHIMS[version])
    assert all(frame["exact"] for frame in frames)
