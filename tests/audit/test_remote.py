"""A process behind a stub, as the stepper sees it: stops, signals, ends; and programs that cannot be run."""

import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jitunwind.arch.aarch64.registers import AARCH64, PC
from jitunwind.arch.x86_64.registers import X86_64
from jitunwind.audit.ptrace import Tracee
from jitunwind.audit.records import back_from_call, judged_registers, not_judged
from jitunwind.audit.remote import RemoteTracee, architecture_of
from jitunwind.audit.steppable import Steppable, Stop
from jitunwind.errors import NoUserEmulator, RemoteFailed
from jitunwind.remote.process import RemoteProcess
from jitunwind.remote.protocol import Stub
from tests.support.fake_memory import FakeMemory, words
from tests.support.scripted_stub import Scripted, talking

TID = 0x0A
STOPPED = b"T05thread:p01.0a;"


def at(pc: int) -> bytes:
    """The registers of a thread there, in a `g` packet."""
    return (struct.pack("<33Q", *range(PC), pc) + bytes(4)).hex().encode()


@contextmanager
def tracee_of(said: dict[bytes, list[bytes]]) -> Iterator[tuple[RemoteTracee, Scripted]]:
    scripted = Scripted(said)
    with talking(scripted) as connection:
        yield RemoteTracee(RemoteProcess(Stub(connection))), scripted


def test_both_kinds_of_processes_can_be_stepped() -> None:
    """To the type checker; and to whoever reads this."""
    kinds: tuple[type[Steppable], ...] = (Tracee, RemoteTracee)
    assert len(kinds) == 2


def test_a_breakpoint_stops_and_a_step_goes_on() -> None:
    replies = {b"vCont;c": [STOPPED], b"vCont;s:p01.0a": [STOPPED], b"g": [at(0x400100), at(0x400104)]}
    with tracee_of(replies) as (tracee, scripted):
        tracee.insert(0x400100)
        tracee.go_on()
        assert tracee.wait(None) == Stop(TID, breakpoint=0x400100)
        assert tracee.stop(), "it stands still already"
        tracee.remove(0x400100)
        assert tracee.step(TID) == Stop(TID)
        assert tracee.registers(TID)[-1] == 0x400104
        assert [each for each in scripted.log if each[:1] in b"zZ"] == [b"Z0,400100,4", b"z0,400100,4"]


def test_signals_are_delivered_when_the_thread_goes_on() -> None:
    replies = {
        b"vCont;c": [b"T0ethread:p01.0a;"],
        b"vCont;C0e:p01.0a;c": [STOPPED],
        b"vCont;s:p01.0a": [b"T0ethread:p01.0a;"],
        b"vCont;S0e:p01.0a": [STOPPED],
        b"g": [at(0x400100)],
    }
    with tracee_of(replies) as (tracee, scripted):
        tracee.insert(0x400100)
        tracee.go_on()
        assert tracee.wait(None) == Stop(TID, breakpoint=0x400100), "the signal was no stop that matters"
        assert tracee.step(TID) == Stop(TID, signal=14), "the instruction has not run"
        assert tracee.step(TID) == Stop(TID)
        assert [each for each in scripted.log if each.startswith(b"vCont;")] == [
            *(b"vCont;c", b"vCont;C0e:p01.0a;c", b"vCont;s:p01.0a", b"vCont;S0e:p01.0a")
        ]


@pytest.mark.parametrize(
    ("reply", "ending"), [(b"W00", 0), (b"W03", 3), (b"X0b", -signal.SIGSEGV), (b"X1e", -signal.SIGUSR1)]
)
def test_the_end_is_told_as_waitpid_tells_it(reply: bytes, ending: int) -> None:
    with tracee_of({b"vCont;c": [reply], b"vCont;s:p01.0a": [reply]}) as (tracee, _):
        tracee.go_on()
        assert tracee.wait(None) is None
        assert not tracee.is_alive
        assert tracee.ending is not None
        assert os.waitstatus_to_exitcode(tracee.ending) == ending
        assert not tracee.stop()
        tracee.let_go()
    with tracee_of({b"vCont;s:p01.0a": [reply]}) as (tracee, _):
        assert tracee.step(TID) is None


def test_a_thread_that_cannot_be_stepped_is_an_error() -> None:
    with tracee_of({b"vCont;s:p01.0a": [b"E01"]}) as (tracee, _), pytest.raises(RemoteFailed, match="E01"):
        tracee.step(TID)


def test_it_is_let_go_without_breakpoints() -> None:
    with tracee_of({}) as (tracee, scripted):
        tracee.insert(0x400100)
        tracee.let_go()
        assert scripted.log[-2:] == [b"z0,400100,4", b"D;01"]


def test_where_a_function_returns_to() -> None:
    registers = list(range(33))
    assert back_from_call(AARCH64, registers, FakeMemory()) == (30, 31)
    memory = FakeMemory({0x7000: words(0x1234)})
    assert back_from_call(X86_64, [0] * 7 + [0x7000] + [0] * 9, memory) == (0x1234, 0x7008)


def test_what_is_judged_is_said() -> None:
    assert judged_registers(AARCH64) == tuple(range(19, 30))
    assert not_judged(AARCH64) == tuple(f"d{number}" for number in range(8, 16))
    assert judged_registers(X86_64) == X86_64.callee_saved
    assert not_judged(X86_64) == ()


def made_program(folder: Path, machine: int) -> Path:
    """An ELF file that says of itself that it is a program for that machine."""
    path = folder / "program"
    path.write_bytes(b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack("<HHI", 2, machine, 1) + bytes(40))
    path.chmod(0o755)
    return path


def test_programs_for_another_machine_are_known_by_their_header(tmp_path: Path) -> None:
    assert architecture_of(str(made_program(tmp_path, 183)), {}) is AARCH64
    assert architecture_of(str(made_program(tmp_path, 243)), {}) is None
    assert architecture_of("nonexistent", {"PATH": "/bin"}) is None
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    assert architecture_of("script", {"PATH": str(tmp_path)}) is None


def audit(*arguments: object, path: str = os.environ["PATH"]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jitunwind", "audit", *map(str, arguments)]
    environment = {**os.environ, "PATH": path}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)


def test_without_qemu_it_says_how_to_get_it(tmp_path: Path) -> None:
    program = made_program(tmp_path, 183)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        with pytest.raises(NoUserEmulator) as raised:
            RemoteTracee.start([str(program)], {}, None, AARCH64)
    assert "apt-get install qemu-user" in raised.value.hint
    done = audit("--", program, path=str(tmp_path))
    assert done.returncode == 2
    assert "to run it here takes qemu-aarch64" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--remote", "localhost"], "no HOST:PORT"),
        (["--remote", "/nonexistent/stub"], "no stub answers"),
        (["--remote", ":1", "python", "script.py"], "name its file alone"),
        (["--remote", ":1", "/nonexistent/python"], "there is no /nonexistent/python"),
        ([], "name a PID, a command, a core or a dump"),
    ],
)
def test_what_cannot_be_connected_to(arguments: list[str], message: str) -> None:
    done = audit(*arguments)
    assert done.returncode == 2, done
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_damaged_program_ends_with_a_word(tmp_path: Path) -> None:
    done = audit("--", made_program(tmp_path, 183))
    assert done.returncode == 2, done
    assert "cannot be run: qemu ended with" in done.stderr
    assert "Traceback" not in done.stderr
