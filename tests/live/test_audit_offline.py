"""`jitunwind audit --emulate` and `--static` on real JIT code: live, from a core and from a dump, the same answers."""

import json
import os
import random
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from jitunwind.arch.x86_64.effects import decode
from jitunwind.arch.x86_64.emulation import EMULATED
from jitunwind.arch.x86_64.registers import X86_64
from jitunwind.audit.emulator import Emulator
from jitunwind.audit.offline import Offline
from jitunwind.audit.records import record_of
from jitunwind.audit.static import Static
from jitunwind.audit.stepper import Activation
from jitunwind.audit.subject import dump_of
from jitunwind.errors import BadDump, JitunwindError
from jitunwind.jits import Code
from jitunwind.jits.dump import Dump, load, save
from jitunwind.memory import Memory
from jitunwind.memory.targets import target_of
from jitunwind.recover.instructions import Instructions
from jitunwind.tables.sources import Recovered, from_dump, gate_table_in
from tests.live.test_audit import of_program
from tests.support.files import write_anew
from tests.support.live import Interpreter, running
from tests.support.mutations import STACK, judged
from tests.support.processes import jitunwind, status

SP = X86_64.stack_pointer
LIMIT = 120


@dataclass(frozen=True)
class Subject:
    """One process that stands still, its core and its dump."""

    python: Interpreter
    pid: int
    core: Path
    dump: Path


@pytest.fixture(scope="module")
def subject(python: Interpreter, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    folder = tmp_path_factory.mktemp("offline")
    with running(python, "floats") as started:
        os.kill(started.pid, signal.SIGSTOP)
        subprocess.run(["gcore", "-o", folder / "core", str(started.pid)], capture_output=True, check=True)
        dump = folder / "jit.dump"
        done = jitunwind("dump", started.pid, "-o", dump)
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
        yield Subject(python, started.pid, folder / f"core.{started.pid}", dump)
        assert status(started.pid)["State"].startswith(("T", "t")), "it was stopped before, and is no more"


def audit(*arguments: object, expected: int = 1) -> dict[str, Any]:
    done = jitunwind("audit", "--json", *arguments, timeout=LIMIT)
    assert done.returncode == expected, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.mark.parametrize("witness", ["emulate", "static"])
def test_a_process_its_core_and_its_dump_give_the_same(subject: Subject, witness: str) -> None:
    reports = [audit(f"--{witness}", each) for each in (subject.pid, subject.core, subject.dump)]
    for report in reports:
        del report["subject"], report["seconds"]
    assert reports[0] == reports[1] == reports[2]
    report = reports[0]
    assert_told(subject.python, report)
    name = {"emulate": "emulated"}.get(witness, witness)
    covered = report["coverage"]
    assert covered["reachable"] > 1000
    assert covered[name] >= 0.95 * covered["reachable"]
    for region in report["regions"]:
        assert {who for _, _, who in region["witnesses"]} == {name}
    assert ("recovered" in report["tables"]) == (witness == "emulate")


def assert_told(python: Interpreter, report: dict[str, Any]) -> None:
    """Recovered rows exact, published ones as they are known to be."""
    if "recovered" in report["tables"]:
        recovered = report["tables"]["recovered"]
        assert (recovered["wrong"], recovered["unknown"]) == (0, 0), (
            report["examples"] or recovered["reasons"]
        )
        assert recovered["instructions"] > 0
    published = report["tables"]["published"]
    if python.shim_in_region:
        assert published["unknown"] == published["instructions"]
        return
    assert published["wrong"] >= 0.99 * published["instructions"]
    for register in ("CFA", "RA", "rbp"):
        assert published["registers"][register]["wrong"] == 0
    for register in ("rbx", "r12", "r13", "r14", "r15"):
        assert published["registers"][register]["wrong"] >= 0.9 * published["instructions"]
    assert report["counts"].get("bad_exits", 0) == 0


def test_the_two_witnesses_agree_register_by_register(subject: Subject) -> None:
    """Where the frame lies in one way only at each instruction, they count the same."""
    emulated, static = (
        audit("--table", "published", f"--{each}", subject.dump) for each in ("emulate", "static")
    )
    if emulated["witnesses"]["emulated"] == static["witnesses"]["static"]:
        one, other = (report["tables"]["published"]["registers"] for report in (emulated, static))
        assert one == other
    else:
        assert subject.python.shim_in_region


def test_each_instruction_is_judged_by_the_first_witness_that_came_to_it(python: Interpreter) -> None:
    report = of_program(python, "floats", "--steps", 2000, "--emulate", "--static")
    assert_told(python, report)
    covered, witnesses = report["coverage"], report["witnesses"]
    assert witnesses["stepped"] == 2000
    assert 0 < covered["stepped"] < covered["reachable"]
    assert covered["stepped"] + covered["emulated"] + covered["static"] == covered["reachable"]
    for region in report["regions"]:
        spans = region["witnesses"]
        assert all(first <= last < following[0] for (first, last, _), following in pairwise(spans))
    for table in report["tables"].values():
        assert sum(table["witnesses"].values()) == table["instructions"]
    assert report["tables"]["recovered"]["witnesses"]["static"] == 0


def test_the_code_of_a_program_that_has_ended_is_still_there(python: Interpreter, tmp_path: Path) -> None:
    script = tmp_path / "short.py"
    script.write_text("def work(n):\n    for i in range(n):\n        i * i\n\n\nwork(9000)\n")
    arguments = ("--", python.python, script)
    report = audit("--static", "--table", "published", *arguments)
    assert min(report["witnesses"][name] for name in ("stepped", "static")) > 0, report["witnesses"]
    assert_told(python, report)


def kept_states(dump: Dump, witness: str) -> list[Any]:
    """What the judge of the emulator, or of laid-out states, is given: as `mutations.judged` takes it."""
    kept: list[Any] = []

    def keep(memory: Memory, region: Code, registers: list[int], activation: Activation, code: Dump) -> None:
        start = registers[SP] - 128
        kept.append(
            (region, record_of(X86_64, registers, memory), activation, code, start, memory.read(start, STACK))
        )

    emulator, static = Emulator(X86_64, EMULATED, decode, dump), Static(X86_64, decode, dump)
    for code in dump.codes:
        instructions = Instructions(X86_64, decode, code.data, dict(code.entries))
        if witness == "emulated":
            emulator.run(code, instructions, partial(keep, emulator.memory))
        else:
            static.run(code, instructions, set(instructions.reachable), partial(keep, static.stack))
    return kept


@pytest.mark.parametrize("witness", ["emulated", "static"])
def test_every_damage_that_changes_an_answer_is_found(subject: Subject, witness: str) -> None:
    dump = load(subject.dump)
    of_gate = {gate: gate_table_in(X86_64, gate, dump.frames) for gate in dump.gates()}
    found = judged(kept_states(dump, witness), of_gate, 150)
    print(f"{subject.python.minor}, {witness}: {found}")
    assert found["mutations"] >= 100 * found["regions"] >= 100
    assert found["changing"] >= 0.2 * found["mutations"]
    assert not found["missed"]
    assert not found["false_alarms"]


def test_an_interrupt_leaves_what_was_found_so_far(subject: Subject) -> None:
    dump = load(subject.dump)
    emulator, tables = Emulator(X86_64, EMULATED, decode, dump), [Recovered(X86_64, decode)]
    offline = Offline(
        X86_64,
        decode,
        dump,
        lambda code: Instructions(X86_64, decode, code.data, dict(code.entries)),
        lambda text: None,
        lambda: emulator.counts.instructions >= 512,
    )
    total = offline.emulate(emulator, tables, [], tables).findings["recovered"].total
    assert (total.exact, total.wrong, total.unknown) == (512, 0, 0)


def test_a_damaged_dump_does_no_harm(subject: Subject, tmp_path: Path) -> None:
    chance, data, damaged = random.Random(3), subject.dump.read_bytes(), tmp_path / "damaged"
    survived = 0
    for _ in range(8):
        spoiled = bytearray(data)
        for _ in range(10):
            spoiled[chance.randrange(64, len(data))] = chance.randrange(256)
        write_anew(damaged, spoiled)
        with suppress(JitunwindError):
            dump = load(damaged)
            tables = [Recovered(X86_64, decode), from_dump(X86_64, dump)]
            offline = Offline(
                X86_64,
                decode,
                dump,
                lambda code: Instructions(X86_64, decode, code.data, dict(code.entries)),
                lambda text: None,
                lambda: False,
            )
            first = offline.emulate(Emulator(X86_64, EMULATED, decode, dump), tables, [], tables)
            offline.compare(tables, [first])
            survived += 1
    assert survived, "none was good enough to be audited"


def test_a_dump_of_a_core_is_that_of_the_process(subject: Subject) -> None:
    from_core = dump_of(target_of(str(subject.core)), pytest.fail)
    assert save(from_core) == subject.dump.read_bytes()


def test_what_cannot_be_audited(subject: Subject, tmp_path: Path) -> None:
    cut, garbage, risc, bare = (tmp_path / name for name in ("cut", "garbage", "risc", "bare"))
    data = subject.dump.read_bytes()
    cut.write_bytes(data[: len(data) // 2])
    garbage.write_bytes(os.urandom(4096))
    other = bytearray(data)
    struct.pack_into("<H", other, 18, 243)  # e_machine: EM_RISCV
    risc.write_bytes(other)
    cut_core = tmp_path / "cut.core"
    with subject.core.open("rb") as core:
        cut_core.write_bytes(core.read(100_000))
    with subprocess.Popen([sys.executable, "-c", "print(flush=True); input()"], stdin=-1, stdout=-1) as plain:
        assert plain.stdout is not None
        plain.stdout.readline()
        subprocess.run(["gcore", "-o", bare, str(plain.pid)], capture_output=True, check=True)
        plain.kill()
    for arguments, message in (
        (["--emulate", cut], "cut short"),
        (["--emulate", garbage], "is no dump of JIT code"),
        (["--static", risc], "is of machine 243"),
        (["--emulate", cut_core], "cut short"),
        (["--emulate", f"{bare}.{plain.pid}"], "is not known here|has no JIT code|runtime"),
        ([subject.core], "cannot be stepped: give --emulate or --static"),
        (["--emulate", subject.core, "--exe", sys.executable], "options go before"),
        (["--steps", "5", "--emulate", subject.dump], "cannot be stepped"),
        (["--static", "--table", "recovered", subject.dump], "add --emulate"),
        (["--emulate", "--exe", sys.executable, subject.core], "not by this"),
        (["--emulate", "--exe", sys.executable, subject.pid], "--exe is for cores"),
        (["--emulate", tmp_path / "missing"], "cannot be run: No such file"),
    ):
        done = jitunwind("audit", *arguments)
        assert done.returncode == 2, (arguments, done)
        assert any(part in done.stderr for part in message.split("|")), (arguments, done.stderr)
        assert "Traceback" not in done.stderr
    done = jitunwind("dump", subject.pid, "-o", tmp_path / "no/such/folder")
    assert done.returncode == 2
    assert "cannot be written" in done.stderr
    with pytest.raises(BadDump):
        load(cut)


def test_reports_say_who_judged_what(subject: Subject, tmp_path: Path) -> None:
    markdown, junit = tmp_path / "audit.md", tmp_path / "audit.xml"
    done = jitunwind(
        *(
            "audit",
            "--emulate",
            "--table",
            "recovered",
            "--markdown",
            markdown,
            "--junit",
            junit,
            subject.dump,
        )
    )
    assert done.returncode == 0, done.stderr
    assert "emulated (100 %)" in done.stdout
    assert "emulated (100 %)." in markdown.read_text()
    assert 'failures="0"' in junit.read_text()
