"""What `jitunwind bt` cannot use: each a message of two lines, exit status 2, and nothing harmed."""

import gzip
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from jitunwind.cli.verb import Verb, target_argument
from jitunwind.errors import NoSuchProcess
from jitunwind.jits.cpython.discovery import read_layout
from jitunwind.jits.cpython.executors import interpreters
from jitunwind.jits.cpython.layout import Layout
from jitunwind.jits.cpython.versions import VERSIONS as VERSIONS_KNOWN
from jitunwind.memory.core import mapped_files
from jitunwind.memory.live import LARGEST_PID
from jitunwind.memory.process import LiveProcess
from tests.support.processes import (
    VERSIONS,
    WARM,
    Done,
    Program,
    WritableProcess,
    command,
    interpreter,
    jitunwind,
    plain_environment,
    run,
    status,
    wait_until,
)

PATIENT = 60.0
"""Seconds after which a `bt` counts as one that hangs."""
GDB = shutil.which("gdb")
NOBODY = 65534

pytestmark = [
    pytest.mark.live,
    pytest.mark.one_version("what is refused, and in which words, does not depend on the version"),
]
needs_gdb = pytest.mark.skipif(GDB is None, reason="no gdb")


def refused(done: Done) -> list[str]:
    """The lines on standard error of a run that printed no stack: what, and what to do."""
    assert (done.returncode, done.stdout) == (2, ""), done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert 1 <= len(lines) <= 2, done.stderr
    assert lines[0].startswith("error: "), done.stderr
    assert all(line.startswith("  try: ") for line in lines[1:]), done.stderr
    return lines


def warned(done: Done) -> str:
    """The warnings of a run that printed a stack all the same."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert re.search(r"^#0 ", done.stdout, re.MULTILINE), done.stdout
    assert done.stderr
    assert all(line.startswith("warning: ") for line in done.stderr.splitlines()), done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def program() -> Iterator[Program]:
    """One that is not harmed, whatever is done to it."""
    with run("3.14", "loop.py") as running:
        yield running.warm()


# --- processes


@pytest.mark.parametrize("pid", ["0", "4194305", "99999999999999999999"])
def test_no_such_process(pid: str) -> None:
    lines = refused(jitunwind("bt", pid))
    assert lines == [
        f"error: there is no process {pid}",
        "  try: list Python processes with: pgrep -a python",
    ]


def test_a_process_that_has_ended() -> None:
    with Program(["true"]) as ended:
        wait_until(lambda: status(ended.pid)["State"][0] == "Z", "a zombie")
        assert refused(jitunwind("bt", ended.pid))[0] == f"error: process {ended.pid} has ended already"


def test_a_thread_instead_of_its_process() -> None:
    with run("3.14", "threads.py") as threads:
        wait_until(lambda: len(threads.tids()) > 1, "a second thread")
        tid = next(tid for tid in threads.tids() if tid != threads.pid)
        assert refused(jitunwind("bt", tid)) == [
            f"error: {tid} is no process, but a thread of process {threads.pid}",
            f"  try: jitunwind bt {threads.pid} --thread {tid}",
        ]


def test_not_permitted(program: Program) -> None:
    if os.geteuid() == 0:
        # the same user, so that it can read all files, but without root's capabilities
        drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"]
        target = program.pid
    else:
        drop, target = [], 1
    done = subprocess.run(
        [*drop, *command("bt", target)], env=plain_environment(), capture_output=True, text=True, check=False
    )
    what, hint = refused(done)
    assert re.fullmatch(rf"error: process {target} \(.+\) may not be looked into by this user", what)
    if os.geteuid() == 0:  # to become root does not help root
        assert "CAP_SYS_PTRACE" in hint
        assert "sudo" not in hint
    else:
        assert "sudo" in hint
        assert "ptrace_scope" in hint
    assert program.goes_on()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_another_users_process() -> None:
    with Program(["cat"], user=NOBODY, group=NOBODY, extra_groups=[]) as other:
        other.settle()
        drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"]
        done = subprocess.run(
            [*drop, *command("bt", other.pid)], capture_output=True, text=True, env=plain_environment()
        )
        assert f"process {other.pid} (cat) may not be looked into by this user" in refused(done)[0]


@needs_gdb
def test_already_traced(program: Program) -> None:
    with subprocess.Popen(
        [str(GDB), "-nx", "-q", "-p", str(program.pid), "-ex", "echo attached\\n"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as gdb:
        assert gdb.stdin is not None
        assert gdb.stdout is not None
        assert any("attached" in line for line in gdb.stdout)
        lines = refused(jitunwind("bt", program.pid))
        gdb.stdin.write("detach\nquit\n")
        gdb.stdin.close()
        gdb.stdout.read()
    assert lines[0] == f"error: process {program.pid} is being traced by process {gdb.pid} (gdb)"
    assert "detach" in lines[1]
    assert program.goes_on()


def test_not_a_python() -> None:
    with Program(["cat"]) as cat:
        cat.settle()
        done = jitunwind("bt", cat.pid)
        assert warned(done).startswith("warning: no CPython here: ")
        assert done.stdout.startswith(f"Process {cat.pid}: cat\nNo Python (")
        assert "names of C functions" not in done.stdout
        assert "all stacks are whole" in done.stdout
        assert status(cat.pid)["TracerPid"] == "0"
        wait_until(lambda: status(cat.pid)["State"][0] == "S", "cat to read again")


def waits(python: str, jit: str | None) -> Program:
    return Program([python, "-c", "import sys; sys.stdin.read()"], jit=jit)


@pytest.mark.parametrize(("version", "jit"), [(version, jit) for version in VERSIONS for jit in (None, "0")])
def test_a_python_with_its_jit_off(version: str, jit: str | None) -> None:
    with waits(interpreter(version), jit) as off:
        off.settle()
        done = jitunwind("bt", off.pid)
    assert "JIT is off (PYTHON_JIT=1 turns it on)" in warned(done)
    assert "_start" in done.stdout
    assert "all stacks are whole" in done.stdout


@pytest.mark.parametrize("version", VERSIONS)
def test_a_python_whose_jit_has_nothing_to_do_yet(version: str) -> None:
    with waits(interpreter(version), "1") as cold:
        cold.settle()
        done = jitunwind("bt", cold.pid)
    assert done.returncode == 0
    assert "_start" in done.stdout
    assert done.stderr == "warning: no JIT code is known here: the JIT is on, and nothing has become hot\n"


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="this Python has debug offsets")
def test_a_python_from_before_there_was_a_jit() -> None:
    with waits(sys.executable, None) as old:
        old.settle()
        done = jitunwind("bt", old.pid)
    version = ".".join(map(str, sys.version_info[:3]))
    assert f"CPython {version} is not known here, only 3.14 and 3.15 are" in warned(done)


# --- programs without symbols


@pytest.fixture(scope="module", params=["stripped", "without sections"])
def bare(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of CPython 3.14 without .symtab; or without any section, so that nobody finds .dynsym either."""
    python = Path(interpreter("3.14"))
    copy = tmp_path_factory.mktemp(request.param.replace(" ", "-")) / python.name
    if request.param == "stripped":
        if shutil.which("strip") is None:
            pytest.skip("no strip")
        subprocess.run(["strip", "--strip-all", "-o", copy, python], check=True)
    else:
        data = bytearray(python.read_bytes())
        data[40:48] = bytes(8)  # e_shoff
        data[60:64] = bytes(4)  # e_shnum, e_shstrndx
        copy.write_bytes(data)
        copy.chmod(0o755)
    return copy


def test_a_stripped_binary(bare: Path, tmp_path: Path) -> None:
    prefix = Path(interpreter("3.14")).parent.parent
    program = Path(__file__).parent / "programs/loop.py"
    with Program([bare, program], environment={"PYTHONHOME": str(prefix)}) as running:
        running.warm()
        done = jitunwind("bt", running.pid, "--python", timeout=PATIENT)
        named = jitunwind("bt", running.pid, "--debug-dir", prefix / "lib/debug", timeout=PATIENT)
        assert running.goes_on()
    assert f"names of C functions: install the debug symbols of {bare.name} (Debian: " in done.stdout
    if bare.parent.name.startswith("stripped"):
        assert " native os_read\n" in named.stdout, named.stdout
        assert "names of C functions" not in named.stdout
    if done.returncode:  # GDB finds .eh_frame by its section
        assert "NOT every stack is whole" in done.stdout
        assert "the caller of " in warned(done)
    else:
        assert re.search(r" jit    take  .*\(inlined in f\)$", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"python f  loop.py:", done.stdout), done.stdout + done.stderr
    assert "CPython 3.14." in done.stdout


# --- damaged lists of executors


def damage(memory: WritableProcess, layout: Layout, interpreter: int, what: str) -> None:
    """Spoil the way to an interpreter's executors."""
    of = layout.executor
    if of.array is not None and of.array_count is not None:
        array, count = interpreter + of.array, interpreter + of.array_count
        first = memory.word(memory.word(array))
        if what == "cycle":
            memory.write_word(interpreter + of.lists[0], first)
            memory.write_word(first + of.link_next, first)
        elif what == "wild":
            memory.write_word(array, 0xDEAD_BEEF_0000)
        elif what == "absurd":
            memory.write_word(count, 1 << 62)
    else:
        head = interpreter + of.lists[0]
        first = memory.word(head)
        if what == "cycle":
            memory.write_word(first + of.link_next, first)
        elif what == "wild":
            memory.write_word(head, 0xDEAD_BEEF_0000)
        elif what == "absurd":
            memory.write_word(first + of.link_next, (1 << 64) - 8)
    if what == "size":
        memory.write_word(first + of.jit_size, 1 << 63)
    elif what == "code":
        memory.write_word(first + of.jit_code, first)
    elif what == "exits":
        memory.write_word(first + of.exit_count, 0xFFFF_FFFF)
    elif what == "owner":
        memory.write_word(first + of.code, 0x10)
    elif what == "next interpreter":
        memory.write_word(interpreter + layout.offsets["interpreter_state.next"], interpreter)
    elif what == "wild interpreter":
        memory.write_word(interpreter + layout.offsets["interpreter_state.next"], 0x10)
    elif what == "noise":
        for offset in range(16, 128, 8):
            memory.write_word(first + offset, 0x4141_4141_4141_4141)


@pytest.fixture(scope="module", params=VERSIONS)
def damaged(request: pytest.FixtureRequest) -> Iterator[Program]:
    """One that stands still while its memory is damaged, and that is repaired before it goes on."""
    with run(request.param, "loop.py") as running:
        yield running.warm()
        assert running.goes_on()


@pytest.mark.parametrize(
    "what",
    [
        *["cycle", "wild", "absurd", "size", "code", "exits", "owner"],
        *["next interpreter", "wild interpreter", "noise"],
    ],
)
def test_damaged_lists_of_executors(what: str, damaged: Program) -> None:
    with WritableProcess(damaged.pid) as memory:
        layout = read_layout(memory)
        damage(memory, layout, next(interpreters(memory, layout)), what)
        try:
            done = jitunwind("bt", damaged.pid, "--python", timeout=PATIENT)
        finally:
            memory.repair()
    assert re.search(r"python f  loop.py:", done.stdout), done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    if done.returncode:
        assert "NOT every stack is whole" in done.stdout
        warned(done)
    else:
        assert " _start" in done.stdout


def test_a_version_that_does_not_exist_yet(damaged: Program) -> None:
    """GIVEN one that is built as the newest that is known, THEN its executors are found by their structure, and that is
    said. Of another one nothing is claimed."""
    with WritableProcess(damaged.pid) as memory:
        layout = read_layout(memory)
        memory.write(layout.runtime + 8, struct.pack("<I", 0x031000A1))
        try:
            done = jitunwind("bt", damaged.pid, timeout=PATIENT)
            fits = layout.version[:2] == max(VERSIONS_KNOWN)
            audited = None if fits else jitunwind("audit", damaged.pid, timeout=PATIENT)
        finally:
            memory.repair()
    if audited is None:
        assert done.returncode == 0, done.stderr
        said = "CPython 3.16.0a1 is not known here: its executors were found by their structure"
        assert said in done.stderr
        assert "all stacks are whole" in done.stdout
    else:
        assert "CPython 3.16.0a1 is not known here, only 3.14 and 3.15 are" in warned(done)
        assert "CPython 3.16.0a1 is not known here" in "\n".join(refused(audited))


# --- cores


@pytest.fixture(scope="module")
def core(program: Program, tmp_path_factory: pytest.TempPathFactory) -> Path:
    prefix = tmp_path_factory.mktemp("core") / "core"
    subprocess.run(["gcore", "-o", prefix, str(program.pid)], capture_output=True, check=True)
    return prefix.with_name(f"core.{program.pid}")


def copy_of(core: Path, folder: Path, patches: dict[int, bytes], size: int | None = None) -> Path:
    data = bytearray(core.read_bytes()[:size])
    for offset, patch in patches.items():
        data[offset : offset + len(patch)] = patch
    copy = folder / "damaged"
    copy.write_bytes(data)
    return copy


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9, 0.999])
def test_a_core_cut_short(share: float, core: Path, tmp_path: Path) -> None:
    size = int(core.stat().st_size * share) or 40
    cut = copy_of(core, tmp_path, {}, size)
    what, hint = refused(jitunwind("bt", cut))
    assert what.startswith(f"error: {cut} is cut short: it ")
    assert "gcore" in hint


def test_a_core_cut_inside_its_headers(core: Path, tmp_path: Path) -> None:
    cut = copy_of(core, tmp_path, {}, 600)
    assert "is cut short: it ends inside its" in refused(jitunwind("bt", cut))[0]


@pytest.mark.parametrize(
    ("patches", "said"),
    [
        ({18: b"\xf3\0"}, "is of an architecture that is not known here (machine 243)"),
        ({4: b"\x01"}, "is of a 32-bit or big-endian process"),
        ({5: b"\x02"}, "is of a 32-bit or big-endian process"),
        ({54: b"\x01\0"}, "its program headers make no sense"),
        ({56: b"\0\0"}, "its program headers make no sense"),
        ({56: b"\xff\xff", 40: b"\xff" * 8}, "its program headers make no sense"),
        ({32: b"\xff" * 8}, "is cut short: it ends inside its program headers"),
    ],
)
def test_a_core_with_another_header(patches: dict[int, bytes], said: str, core: Path, tmp_path: Path) -> None:
    damaged = copy_of(core, tmp_path, patches)
    assert said in refused(jitunwind("bt", damaged))[0]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.touch(), "is empty"),
        (lambda path: path.write_text("hello\n" * 99), "is no core file"),
        (lambda path: path.write_bytes(Path(sys.executable).read_bytes()[: 1 << 16]), "but no core"),
        (lambda path: path.mkdir(), "cannot be read: Is a directory"),
        (lambda path: None, "is neither a process number nor a file"),
        (lambda path: path.symlink_to("/dev/zero"), "is a device, a pipe or a socket, and no file"),
        (os.mkfifo, "is a device, a pipe or a socket, and no file"),
        (lambda path: path.symlink_to("/proc/self/status"), "is no core file"),
    ],
    ids=["empty", "text", "executable", "directory", "missing", "device", "pipe", "proc"],
)
def test_no_core_at_all(make: Callable[[Path], object], said: str, tmp_path: Path) -> None:
    path = tmp_path / "it"
    make(path)
    what, hint = refused(jitunwind("bt", path))
    assert what.startswith(f"error: {path} ")
    assert said in what
    assert hint


def test_a_program_that_is_not_there(core: Path, tmp_path: Path) -> None:
    missing = tmp_path / "python"
    assert (
        refused(jitunwind("bt", core, "--exe", missing))[0]
        == f"error: --exe {missing}: there is no such file"
    )


def test_the_cores_own_program_is_not_there(core: Path, tmp_path: Path) -> None:
    python = os.fsencode(interpreter("3.14"))
    moved = tmp_path / "moved"
    moved.write_bytes(core.read_bytes().replace(python, python[:-1] + b"X"))
    what, hint = refused(jitunwind("bt", moved))
    assert what.endswith("X, which is not here")
    assert "--exe" in hint


def test_another_program_than_the_cores(core: Path) -> None:
    what, hint = refused(jitunwind("bt", core, "--exe", shutil.which("cat")))
    assert what.endswith(f"was left by {interpreter('3.14')}, not by this {shutil.which('cat')}")
    assert "--exe" in hint


def hollow(core: Path, folder: Path) -> Path:
    """As the kernel writes it with coredump_filter 0: the segments are there, and nothing of them is stored."""
    data = core.read_bytes()
    (start,), (count,) = struct.unpack_from("<Q", data, 32), struct.unpack_from("<H", data, 56)
    loads = (at for at in range(start, start + 56 * count, 56) if data[at] == 1)
    return copy_of(core, folder, {at + 32: bytes(8) for at in loads})  # p_filesz


def test_a_core_without_memory(core: Path, tmp_path: Path) -> None:
    empty = hollow(core, tmp_path)
    done = jitunwind("bt", empty)
    assert "the core holds none of the process's own memory: its coredump_filter" in warned(done)
    assert "JIT is off" not in done.stdout + done.stderr
    assert "  … the core does not hold this stack; take another one: echo 0x33 > " in done.stdout
    for arguments in (["explain", empty], ["dump", empty, "-o", tmp_path / "dump"]):
        what, hint = refused(jitunwind(*arguments))
        assert what.startswith(f"error: {empty} holds none of the process's own memory")
        assert "coredump_filter" in hint


def test_a_core_whose_library_has_gone(core: Path, tmp_path: Path) -> None:
    libm = next(file.path for file in mapped_files(core, None) if "/libm.so" in file.path)
    moved = tmp_path / "moved"
    moved.write_bytes(core.read_bytes().replace(libm.encode(), libm.encode()[:-1] + b"X"))
    assert re.search(rf"warning: {libm[:-1]}X \(build-id [0-9a-f]+\) ", jitunwind("bt", moved).stderr)


def test_compressed_cores_are_like_plain_ones(core: Path, tmp_path: Path) -> None:
    packed = tmp_path / "core.python3.14.gz"
    packed.write_bytes(gzip.compress(core.read_bytes(), 1))
    for arguments in (["bt"], ["explain"], ["audit", "--static"]):
        plain, done = jitunwind(*arguments, core), jitunwind(*arguments, packed)
        assert (done.returncode, done.stderr) == (plain.returncode, plain.stderr)
        assert "jitunwind-" not in done.stdout
        assert done.stdout.count("\n") == plain.stdout.count("\n")
    packed.write_bytes(packed.read_bytes()[:-9])
    (what, *_) = refused(jitunwind("bt", packed))
    assert what == f"error: {packed} cannot be unpacked: it is cut short"
    packed.write_bytes(gzip.compress(core.read_bytes()[:1_000_000], 1))
    (what, *_) = refused(jitunwind("bt", packed))
    assert what.startswith(f"error: {packed} is cut short: ")


# --- a process that goes away


@pytest.mark.parametrize("moment", [0.2, 0.3, 0.4, 0.5])
def test_a_process_that_is_killed_in_the_middle(moment: float) -> None:
    with run("3.15", "loop.py") as dying:
        dying.send(b"w" * WARM)
        dying.settle()
        running = subprocess.Popen(
            command("bt", dying.pid),
            env=plain_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            running.wait(moment)
        except subprocess.TimeoutExpired:
            dying.kill()
        shown, complaint = running.communicate(timeout=PATIENT)
    if running.returncode == 0:
        assert "all stacks are whole" in shown
    else:
        lines = refused(subprocess.CompletedProcess([], running.returncode, shown, complaint))
        assert re.search(rf"process {dying.pid} has ended|there is no process {dying.pid}", lines[0])


@pytest.mark.parametrize("metavar", ["PID", "PID | COMMAND..."])
@pytest.mark.parametrize(
    "read",
    [
        lambda memory: os.readlink(f"/proc/{memory.pid}/root"),
        lambda memory: os.stat(f"/proc/{memory.pid}/exe"),
        lambda memory: os.kill(LARGEST_PID, 0),
        lambda memory: memory.word(4096),
        read_layout,
    ],
    ids=["root", "executable", "no such process", "memory", "layout"],
)
def test_every_verb_says_that_the_process_has_ended(
    read: Callable[[LiveProcess], object], metavar: str
) -> None:
    @click.command(cls=Verb)
    @target_argument(metavar, nargs=-1 if "COMMAND" in metavar else 1)
    def verb(target: str | tuple[str, ...]) -> None:
        ended = int(target[0] if isinstance(target, tuple) else target)
        with LiveProcess(ended) as memory:
            os.kill(ended, signal.SIGKILL)
            wait_until(lambda: status(ended)["State"][0] == "Z", "a zombie")
            read(memory)

    with Program(["cat"]) as cat:
        cat.settle()
        with pytest.raises(NoSuchProcess, match=f"process {cat.pid} has ended"):
            verb.main([str(cat.pid)], standalone_mode=False)


def test_what_is_wrong_with_another_file_is_not_blamed_on_the_process() -> None:
    @click.command(cls=Verb)
    @target_argument("PID")
    def verb(target: str) -> None:
        os.stat("/nonexistent")

    with pytest.raises(FileNotFoundError):
        verb.main(["4194304"], standalone_mode=False)


@needs_gdb
def test_a_process_that_is_killed_while_gdb_holds_it(tmp_path: Path) -> None:
    with run("3.15", "loop.py") as dying:
        dying.warm()
        # GIVEN a GDB that kills the process between attaching to it and looking at it
        gdb = tmp_path / "gdb"
        kill = f"shell kill -{signal.SIGKILL:d} {dying.pid}"
        gdb.write_text(
            f"#!{sys.executable}\nimport os, sys\na = sys.argv[1:]\n"
            f"a[-2:-2] = ['-ex', {kill!r}]\nos.execv({GDB!r}, [{GDB!r}, *a])\n"
        )
        gdb.chmod(0o755)
        # WHEN
        lines = refused(jitunwind("bt", dying.pid, "--gdb", gdb, timeout=PATIENT))
        # THEN
        assert lines[0] == f"error: process {dying.pid} has ended while its stacks were being read"


# --- GDB


def fake(folder: Path, *lines: str) -> Path:
    path = folder / "gdb"
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)
    return path


def test_no_gdb_on_path(program: Program, tmp_path: Path) -> None:
    beside = str(tmp_path / "python")
    elsewhere = f"import sys; sys.executable = {beside!r}; from jitunwind.cli import main; main()"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            elsewhere,
            "gdb",
            "-batch",
            "-p",
            str(program.pid),
        ],  # one may lie beside this Python
        env=plain_environment() | {"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    what, hint = refused(done)
    assert what == "error: there is no gdb on this machine's PATH"
    assert "apt-get install gdb" in hint
    assert "gdb-for-pwndbg" in hint


@pytest.mark.parametrize(
    ("by", "verb"), [("--gdb", "bt"), ("--gdb", "gdb"), ("JITUNWIND_GDB", "gdb")], ids=str
)
def test_a_gdb_that_is_not_there(by: str, verb: str, program: Program) -> None:
    options = ["--gdb", "/nonexistent"] if by == "--gdb" else []
    environment = {} if options else {"JITUNWIND_GDB": "/nonexistent"}
    arguments = [verb, *options, str(program.pid)]
    lines = refused(jitunwind(*arguments, environment=environment))
    assert lines[0] == f"error: {by} /nonexistent: that is no program that can be run"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (['echo "GNU gdb (Debian 12.1-3) 12.1"'], "is GDB 12.1; 13 or later is needed"),
        (['echo "GNU gdb (Ubuntu 9.2-0ubuntu1~20.04.1) 9.2"'], "is GDB 9.2; 13 or later is needed"),
        (['echo "GNU gdb (GDB) 15.2"; echo "no Python" >&2; exit 1'], "(GDB 15.2) has no Python"),
        (
            ['echo "GNU gdb (GDB) 13.2"; echo "python 3 9"'],
            "(GDB 13.2) has Python 3.9; 3.11 or later is needed",
        ),
        (["exit 1"], "is no GDB that works: it does not say its version"),
        (["kill -SEGV $$"], "is no GDB that works: it does not say its version"),
    ],
    ids=["12.1", "9.2", "no Python", "Python 3.9", "exit 1", "crash"],
)
def test_a_gdb_that_does_not_do(lines: list[str], said: str, program: Program, tmp_path: Path) -> None:
    gdb = fake(tmp_path, *lines)
    what, hint = refused(jitunwind("bt", program.pid, "--gdb", gdb))
    assert what == f"error: {gdb} {said}"
    assert "GDB 13 or later with Python 3.11 or later is needed" in hint


@needs_gdb
def test_a_gdb_that_dies_with_the_process_in_its_hands(program: Program, tmp_path: Path) -> None:
    gdb = fake(
        tmp_path,
        'die="python os.kill(os.getpid(), 9)"',
        f'case "$*" in *" -p "*) exec {GDB} -nx -batch -p {program.pid} -ex "$die";; esac',
        f'exec {GDB} "$@"',
    )
    what = refused(jitunwind("bt", program.pid, "--gdb", gdb))[0]
    assert what.startswith(f"error: {gdb} ended without an answer: ")
    assert program.goes_on()


def test_a_gdb_that_cannot_be_run(program: Program, tmp_path: Path) -> None:
    gdb = tmp_path / "gdb"
    gdb.write_bytes(b"\x7fELF nonsense")
    gdb.chmod(0o755)
    assert f"error: {gdb} cannot be run: Exec format error" in refused(
        jitunwind("bt", program.pid, "--gdb", gdb)
    )


# --- usage


@pytest.mark.parametrize(
    "arguments",
    [
        ["bt", "--nonsense", "1"],
        ["bt"],
        ["explain", "1", "2"],
        ["bt", "1", "--thread", "x"],
        ["bt", "1", "--exe", "/bin/true"],
        ["bt", "1", "--color", "mauve"],
        ["nonsense"],
        ["--nonsense"],
        ["completion", "tcsh"],
    ],
    ids=" ".join,
)
def test_wrong_usage(arguments: list[str]) -> None:
    done = jitunwind(*arguments)
    assert refused(done)[1:], "nothing to try"


def test_nothing_was_harmed(program: Program) -> None:
    assert program.goes_on()
