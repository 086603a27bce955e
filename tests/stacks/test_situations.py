"""Stacks of processes as they are in production: confined, in containers, without their files, of other C libraries, on
other stacks; and of cores as they are kept."""

import base64
import ctypes
import errno
import gzip
import lzma
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile

from jitunwind.errors import NoSuchProcess, NotPermitted
from jitunwind.jits.registered import JitInterface
from jitunwind.memory.packed import unpacked
from jitunwind.memory.process import LiveProcess
from jitunwind.stacks import seizing
from jitunwind.stacks.library import stacks
from jitunwind.stacks.model import FrameKind, Stacks
from tests.support import THOROUGH
from tests.support.compiled import compiled, needs_gcc
from tests.support.live import PROGRAMS, Interpreter, fetched
from tests.support.processes import command, plain_environment, status, wait_until
from tests.support.situations import SOURCE, names, only, started
from tools.debuggers import greenlet_folder

DEEP = 20_000
STOPS = 100 if THOROUGH else 20
MOST_SIGNALS = 100
"""Until one comes while JIT code runs."""
SHARED = "-O1 -pthread -shared -fPIC"
WITHOUT_RIGHTS = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"]
as_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can become somebody else, or change its root"
)


def is_whole_from(function: str, found: Stacks) -> None:
    """Whether the stack leads from that function to the outermost frame, all by tables."""
    assert found.complete, found.threads[0].reason
    called = names(only(found))
    assert called.index(function) < called.index("main") < called.index("_start"), called
    assert all(frame.exact for frame in only(found))


def bt(pid: int, prefix: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    run = [*prefix, *command("bt", pid)]
    return subprocess.run(run, env=plain_environment(), capture_output=True, text=True, check=False)


# --- rights


@needs_gcc
def test_one_that_seccomp_confines(situations: Path) -> None:
    """Nothing is asked of the process, so it need not be allowed to do anything."""
    with started([situations, "confined"]) as pid:
        wait_until(lambda: status(pid)["Seccomp"] == "1", "the confinement")
        found = stacks(pid)
        assert found.complete, found.threads[0].reason
        assert names(only(found))[-1] == "_start"
        assert (status(pid)["State"][0], status(pid)["TracerPid"]) == ("S", "0")


@needs_gcc
@as_root
def test_one_that_is_not_dumpable_is_for_root_alone(situations: Path) -> None:
    """As ssh-agent and others that keep secrets are (prctl(2), PR_SET_DUMPABLE)."""
    with started([situations, "secret"]) as pid:
        is_whole_from("stay", stacks(pid))
        done = bt(pid, prefix=WITHOUT_RIGHTS)  # the same user
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(
            f"error: process {pid} (situations) may not be looked into by this user\n  try: "
        )
        assert (status(pid)["State"][0], status(pid)["TracerPid"]) == ("S", "0")


@needs_gcc
def test_one_that_may_be_read_and_not_traced(situations: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with Yama's ptrace_scope and in some containers: PTRACE_SEIZE alone is refused."""
    trace = seizing.ptrace

    def refuse(request: int, *arguments: object) -> int:
        if request != seizing.SEIZE:
            return int(trace(request, *arguments))
        ctypes.set_errno(errno.EPERM)
        return -1

    with started([situations, "plain"]) as pid:
        monkeypatch.setattr(seizing, "ptrace", refuse)
        with pytest.raises(NotPermitted) as caught:
            stacks(pid)
        assert "ptrace_scope" in caught.value.hint
        monkeypatch.undo()
        assert stacks(pid).complete


@needs_gcc
def test_a_thread_in_the_place_of_its_process(situations: Path) -> None:
    with started([situations, "zombie"]) as pid:
        wait_until(lambda: status(pid)["State"][0] == "Z", "the end of the main thread")
        (tid,) = (int(each) for each in os.listdir(f"/proc/{pid}/task") if int(each) != pid)
        with pytest.raises(NoSuchProcess) as caught:
            stacks(tid)
        assert caught.value.hint == f"jitunwind bt {pid} --thread {tid}"
        assert [each.tid for each in stacks(pid, thread=tid).threads] == [tid]


# --- files


def in_chroot(program: Path, folder: Path) -> list[object]:
    shutil.copy(program, folder / "program")
    (folder / "empty").mkdir()
    return ["chroot", folder, "/program", "alternate"]


def in_mount_namespace(program: Path, folder: Path) -> list[object]:
    """Where another file has its path here."""
    path = folder / "program"
    shutil.copy("/bin/true", path)
    return ["unshare", "--mount", "sh", "-c", f"mount --bind {program} {path} && exec {path} alternate"]


def in_memory(program: Path, folder: Path) -> list[object]:
    start = "import os, sys; f = os.memfd_create('x'); os.write(f, open(sys.argv[1], 'rb').read())"
    return [
        sys.executable,
        "-Ic",
        f"{start}; os.execv(f'/proc/self/fd/{{f}}', ['program', 'alternate'])",
        program,
    ]


@needs_gcc
@as_root
@pytest.mark.parametrize("where", [in_chroot, in_mount_namespace, in_memory], ids=lambda each: each.__name__)
def test_files_are_those_that_the_process_has(
    where: Callable[[Path, Path], list[object]], tmp_path: Path
) -> None:
    program = compiled(tmp_path / "static", SOURCE.read_text(), "-O1 -pthread -static")
    folder = tmp_path / "root"
    folder.mkdir()
    with started(where(program, folder)) as pid:
        found = stacks(pid)
    is_whole_from("handler", found)
    assert not found.warnings


@needs_gcc
@as_root
def test_the_descriptor_of_gdbs_interface_is_that_of_the_processes_file(tmp_path: Path) -> None:
    """Where another file has its path here."""
    descriptor = "\nlong __jit_debug_descriptor[4] = {1};\n"
    program = compiled(tmp_path / "static", SOURCE.read_text() + descriptor, "-O1 -pthread -static")
    with program.open("rb") as file:
        table: Any = ELFFile(file).get_section_by_name(".symtab")
        (symbol,) = table.get_symbol_by_name("__jit_debug_descriptor")
    with started(in_mount_namespace(program, tmp_path)) as pid, LiveProcess(pid) as memory:
        assert JitInterface(memory, []).descriptors() == [symbol["st_value"]]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a program, and a library that has all of it."""
    folder = tmp_path_factory.mktemp("library")
    library = compiled(folder / "libsituations.so", SOURCE.read_text(), f"{SHARED} -Dmain=library")
    main = (
        "int library(int, char **); int main(int count, char **words) { return library(count, words) + 1; }"
    )
    options = ["-x", "c", "-", "-x", "none", library, f"-Wl,-rpath,{folder}", "-o", folder / "program"]
    subprocess.run(["gcc", "-O1", *options], input=main, text=True, check=True)
    return folder


@needs_gcc
@pytest.mark.parametrize("how", ["deleted", "upgraded"])
def test_a_library_that_is_not_there_any_more(how: str, library: Path, tmp_path: Path) -> None:
    """As libpython is after an upgrade, of a process that goes on with the old one."""
    place = library / "libsituations.so"
    kept = shutil.copy(place, tmp_path / "kept")
    try:
        with started([library / "program", "alternate"]) as pid:
            place.unlink()
            if how == "upgraded":
                compiled(place, SOURCE.read_text(), f"{SHARED} -O2 -Dmain=library")
            found = stacks(pid)
    finally:
        shutil.copy(kept, place)
    is_whole_from("interrupted", found)


# --- other C libraries


@needs_gcc
def test_musl(tmp_path: Path) -> None:
    """Its code has neither unwind tables nor a frame pointer: where the walk ends is said."""
    root = fetched("musl")
    folder = root / "usr/lib/x86_64-linux-musl"
    (tmp_path / "x.c").write_text(SOURCE.read_text())
    headers = [root / "usr/include/x86_64-linux-musl", "/usr/include/x86_64-linux-gnu", "/usr/include"]
    gcc = [
        "gcc",
        "-w",
        "-O1",
        "-nostdinc",
        *(part for each in headers for part in ("-isystem", each)),
        "-nostdlib",
    ]
    libgcc = subprocess.run(["gcc", "-print-libgcc-file-name"], capture_output=True, text=True).stdout.strip()
    begin, end = [folder / "crt1.o", folder / "crti.o"], [f"-L{folder}", "-lc", libgcc, folder / "crtn.o"]
    program = tmp_path / "program"
    subprocess.run([*gcc, "-static", "-no-pie", "-o", program, tmp_path / "x.c", *begin, *end], check=True)
    with started([program, "confined"]) as pid:  # in a function of its own, not in the C library's
        found = stacks(pid)
        assert f"no unwind information for {program} at" in found.threads[0].reason
        assert status(pid)["TracerPid"] == "0"


# --- other stacks


@needs_gcc
def test_a_coroutine_ends_where_its_stack_does(situations: Path) -> None:
    """Of makecontext(3): nothing of the stack that it was entered from is shown, and nothing invented."""
    with started([situations, "coroutine"]) as pid:
        (thread,) = stacks(pid).threads
    called = names(thread.frames)
    assert called[called.index("coroutine") - 1] == "stay"
    assert len(called) == called.index("coroutine") + 2  # the last is what makecontext has it return to
    assert "libc" in called[-1] or "start_context" in called[-1]
    assert "no unwind information" in thread.reason


GREENLETS = """
import sys
from greenlet import getcurrent, greenlet
def work():
    total = 0
    for i in range(200):
        total += i & 7
    return total
def inside():
    while True:
        for _ in range(200):
            work()
        outside.switch()
outside, within = getcurrent(), greenlet(inside)
for switches in range(1 << 60):
    within.switch()
    if switches == 100:
        print("ready", flush=True)
"""


def test_greenlets_end_in_a_reason_or_where_their_stack_does(python: Interpreter, tmp_path: Path) -> None:
    """What called a greenlet first may be overwritten since, by what runs outside of it. GDB goes on in that."""
    program = tmp_path / "greenlets.py"
    program.write_text(GREENLETS)
    path = {"PYTHONPATH": str(fetched(greenlet_folder(python.minor)))}
    within = 0
    with started([python.python, program], python.environment() | path) as pid:
        for _ in range(STOPS):
            (thread,) = stacks(pid, python=True).threads
            called = names(thread.frames)
            assert not [name for name in called if name.startswith("0x")], called
            assert thread.reason.startswith("the return address ") or called[-1] == "_start", thread
            within += "inside" in [frame.function for frame in thread.frames]
    assert within


@needs_gcc
def test_the_child_of_a_vfork_is_shown_on_its_parents_stack(situations: Path) -> None:
    with started([situations, "vforked"]) as parent:
        (child,) = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        try:
            is_whole_from("vforked", stacks(int(child)))
        finally:
            os.kill(int(child), signal.SIGKILL)


@needs_gcc
def test_twenty_thousand_frames(situations: Path) -> None:
    with started([situations, "deep"]) as pid:
        found = stacks(pid)
    assert found.complete
    assert names(only(found)).count("deep") == DEEP + 1


ON_ANOTHER_STACK = r"""
#define _GNU_SOURCE
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>
static void on_signal(int number)
{
    char byte;
    (void)number;
    write(1, "in\n", 3);
    read(0, &byte, 1);
}
void install(void)
{
    stack_t stack = {.ss_sp = malloc(1 << 16), .ss_size = 1 << 16};
    sigaltstack(&stack, NULL);
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK};
    sigaction(SIGUSR1, &action, NULL);
}
"""


@needs_gcc
def test_a_signal_handler_on_a_stack_of_its_own_above_jit_code(python: Interpreter, tmp_path: Path) -> None:
    library = compiled(tmp_path / "x.so", ON_ANOTHER_STACK, "-O1 -shared -fPIC")
    program = tmp_path / "program.py"
    program.write_text(
        f"import ctypes, sys; sys.path.insert(0, {str(PROGRAMS)!r}); ctypes.CDLL({str(library)!r}).install()\n"
        "import loops\n"
    )
    command = [python.python, program]
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": python.environment(), "text": True}
    with subprocess.Popen(command, bufsize=1, **options) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for _ in range(MOST_SIGNALS):
            process.send_signal(signal.SIGUSR1)
            assert process.stdout.readline() == "in\n"
            found = stacks(process.pid, python=True)
            if any(frame.kind is FrameKind.JIT for frame in only(found)):
                break
            process.stdin.write(".")
            process.stdin.flush()
        process.kill()
    assert found.complete, found.threads[0].reason
    frames = only(found)
    handler = next(number for number, frame in enumerate(frames) if frame.name == "on_signal")
    assert FrameKind.JIT in [frame.kind for frame in frames[handler:]]
    assert "work" in [frame.function for frame in frames[handler:]]
    assert frames[-1].name == "_start"


# --- cores as they are kept


@pytest.fixture(scope="module")
def core(situations: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("core")
    with started([situations, "alternate"]) as pid:
        subprocess.run(["gcore", "-o", folder / "core", str(pid)], capture_output=True, check=True)
    return folder / f"core.{pid}"


def report_of(data: bytes) -> bytes:
    """As apport writes it."""
    return b"ProblemType: Crash\nCoreDump: base64\n " + base64.b64encode(gzip.compress(data, 1)) + b"\n"


def zstd(data: bytes) -> bytes:
    """As systemd-coredump writes it."""
    return bytes(pytest.importorskip("zstandard").compress(data, 1))


def lz4(data: bytes) -> bytes:
    return bytes(pytest.importorskip("lz4.frame").compress(data))


@needs_gcc
@pytest.mark.parametrize(
    ("name", "packing"),
    [
        ("core.zst", zstd),
        ("core.xz", lambda data: lzma.compress(data, preset=0)),
        ("core.gz", lambda data: gzip.compress(data, 1)),
        ("core.lz4", lz4),
        ("_program.crash", report_of),
    ],
)
def test_cores_as_they_are_kept(
    name: str, packing: Callable[[bytes], bytes], core: Path, tmp_path: Path
) -> None:
    packed = tmp_path / name
    packed.write_bytes(packing(core.read_bytes()))
    with unpacked(packed, lambda done, of: None) as plain:
        is_whole_from("handler", stacks(plain))
