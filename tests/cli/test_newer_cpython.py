"""A CPython that says it is 3.16, and one whose debug offsets are nonsense: what each verb says of them.

Cores are made such by changing what `_PyRuntime` says of itself, and so is the memory of live processes. What is built
as the newest version that is known is found by its structure; anything else ends with a reason.
"""

import json
import random
import re
import struct
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from jitunwind.jits.cpython.layout import COOKIE, described
from jitunwind.jits.cpython.versions import NAMES
from tests.cli.test_enable import started
from tests.support.files import write_anew
from tests.support.processes import VERSIONS, Done, WritableProcess, interpreter, jitunwind, run

NEWER = 0x031000A1
"""PY_VERSION_HEX of 3.16.0a1."""
NOT_KNOWN = "CPython 3.16.0a1 is not known here"
BY_STRUCTURE = f"warning: {NOT_KNOWN}: its executors were found by their structure\n"
REFUSED = f"{NOT_KNOWN}, only {' and '.join(NAMES)} are"
OFFSETS = 24
"""Where `_Py_DebugOffsets` has the first offset."""
MOST_OFFSETS = 60
NONSENSE = 3
PATIENT = 60.0


class Core(NamedTuple):
    """What a process in JIT code left, and where its `_PyRuntime` lies in the file."""

    version: str
    data: bytes
    runtime: int

    @property
    def is_newest(self) -> bool:
        return self.version == NAMES[-1]

    def of_newer_version(self, folder: Path) -> Path:
        return self.changed(folder, {8: struct.pack("<I", NEWER)})

    def changed(self, folder: Path, words: dict[int, bytes]) -> Path:
        """A core in which `_PyRuntime` has other bytes at these offsets."""
        data = bytearray(self.data)
        for offset, word in words.items():
            data[self.runtime + offset : self.runtime + offset + len(word)] = word
        path = folder / "core"
        write_anew(path, data)
        return path


@pytest.fixture(scope="module", params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def core(version: str, tmp_path_factory: pytest.TempPathFactory) -> Core:
    prefix = tmp_path_factory.mktemp("core") / "core"
    with run(version, "loop.py") as program:
        subprocess.run(["gcore", "-o", prefix, str(program.warm().pid)], capture_output=True, check=True)
        data = prefix.with_name(f"core.{program.pid}").read_bytes()
    major, minor = map(int, version.split("."))
    (runtime,) = (
        found.start() for found in re.finditer(COOKIE + b".." + bytes([minor, major]), data, re.DOTALL)
    )
    return Core(version, data, runtime)


def refused(done: Done, why: str) -> None:
    assert (done.returncode, done.stdout) == (2, ""), done.stdout + done.stderr
    assert why in done.stderr
    assert "Traceback" not in done.stderr


def stacks(target: object) -> tuple[dict[str, Any], Done]:
    done = jitunwind("bt", "--json", target, timeout=PATIENT)
    said: dict[str, Any] = json.loads(done.stdout)
    return said, done


def test_the_stacks_of_a_newer_version(core: Core, tmp_path: Path) -> None:
    said, done = stacks(core.of_newer_version(tmp_path))
    frames = said["threads"][0]["frames"]
    jit = [frame for frame in frames if frame["kind"] == "jit"]
    assert jit
    if core.is_newest:
        assert (done.returncode, done.stderr, said["complete"]) == (0, BY_STRUCTURE, True)
        assert said["python"] == "3.16.0a1"
        assert all(frame["exact"] for frame in frames)
        assert all(frame["function"] in ("f", "take") and frame["line"] for frame in jit), jit
    else:
        assert (done.returncode, said["complete"], said["python"]) == (2, False, None)
        assert said["warnings"] == [f"{REFUSED}: JIT frames, if there are any, are neither unwound nor named"]
        assert jit == frames[-1:], "nothing behind code that nobody knows"
        assert said["threads"][0]["reason"]
        assert "No CPython that is known" in jitunwind("bt", core.of_newer_version(tmp_path)).stdout


def test_what_other_verbs_say_of_it(core: Core, tmp_path: Path) -> None:
    path = core.of_newer_version(tmp_path)
    doctor = jitunwind("doctor", path, timeout=PATIENT)
    verbs = (
        ["explain", "--json", path],
        ["audit", "--static", path],
        ["audit", "--table", "recovered", "--emulate", path],
        ["dump", path, "-o", tmp_path / "dump"],
    )
    for arguments in verbs:
        done = jitunwind(*arguments, timeout=PATIENT)
        if core.is_newest:
            assert done.returncode == (1 if "--static" in arguments else 0), done.stderr
            assert BY_STRUCTURE in done.stderr
        else:
            refused(done, REFUSED)
    if core.is_newest:
        assert doctor.returncode == 0, doctor.stdout
        assert "no record of this version" in doctor.stdout
    else:
        assert doctor.returncode == 1, doctor.stdout
        assert REFUSED in doctor.stdout


def test_a_process_of_it_publishes(python: str) -> None:
    is_newest = python == interpreter(NAMES[-1])
    with started(python, "hot") as hot:
        with WritableProcess(hot.pid) as memory:
            memory.write(described(memory).runtime + 8, struct.pack("<I", NEWER))
        enabled = jitunwind("enable", hot.pid, timeout=PATIENT)
        if not is_newest:
            refused(enabled, REFUSED)
            assert hot.process.poll() is None
            return
        assert enabled.returncode == 0, enabled.stderr
        assert BY_STRUCTURE in enabled.stderr
        assert re.match(rf"process {hot.pid} publishes its JIT code: [1-9]", enabled.stdout)
        done = jitunwind(*("audit", "--table", "recovered", "--steps", 500, hot.pid), timeout=PATIENT)
        assert done.returncode == 0, done.stdout + done.stderr
        assert BY_STRUCTURE in done.stderr
        assert jitunwind("disable", hot.pid, timeout=PATIENT).returncode == 0


def test_run_says_that_it_does_not_know_it(tmp_path: Path) -> None:
    python = tmp_path / "python3.16"
    python.write_text("#!/bin/sh\necho Python 3 16 0 True\n")
    python.chmod(0o755)
    done = jitunwind("run", "--python", python, "x.py")
    assert done.stderr.replace("\n  ", " ") == (
        f"warning: CPython 3.16.0 is not known here: its JIT code is published if its structure proves to be that of "
        f"{NAMES[-1]}, and jitunwind.problems() tells whether it did\n"
    )


@pytest.mark.parametrize("seed", range(NONSENSE))
def test_debug_offsets_that_are_nonsense(core: Core, seed: int, tmp_path: Path) -> None:
    """GIVEN offsets of which most are plausible and wrong, THEN each verb ends, and does not claim that all is well."""
    chance = random.Random(seed)
    words = {
        OFFSETS + 8 * index: struct.pack("<Q", 8 * chance.randrange(1 << chance.randrange(1, 16)))
        for index in range(MOST_OFFSETS)
        if chance.random() < 0.5
    }
    if seed == 0:
        words = {OFFSETS + 8 * index: b"\x41" * 8 for index in range(MOST_OFFSETS)}
    path = core.changed(tmp_path, words)
    said, done = stacks(path)
    assert done.returncode == 2, done.stdout
    assert not said["complete"] or said["warnings"], done.stdout
    for arguments in (
        ["explain", path],
        ["audit", "--static", path],
        ["doctor", path],
        ["dump", path, "-o", tmp_path / "dump"],
    ):
        done = jitunwind(*arguments, timeout=PATIENT)
        assert done.returncode in (1, 2), done.stdout + done.stderr
        assert "Traceback" not in done.stderr


def test_a_free_threaded_build_is_said_to_be_one(core: Core, tmp_path: Path) -> None:
    path = core.changed(tmp_path, {16: b"\x01"})
    why = "is free-threaded: its JIT, if it has one, is not known here"
    said, done = stacks(path)
    assert (done.returncode, said["complete"]) == (2, False)
    assert why in done.stderr
    refused(jitunwind("explain", path, timeout=PATIENT), why)
    refused(jitunwind("audit", "--static", path, timeout=PATIENT), why)
    assert why in jitunwind("doctor", path, timeout=PATIENT).stdout
