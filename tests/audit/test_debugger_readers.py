"""`jitunwind audit --reader libdw` and `--reader gdb`: tables as elfutils' unwinder and as GDB execute them."""

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from jitunwind.arch.aarch64.registers import AARCH64, PC, SP, X29, X30
from jitunwind.arch.x86_64.registers import R13, RBX, RETURN_ADDRESS, RSP, X86_64
from jitunwind.audit.ptrace import Tracee
from jitunwind.audit.readers import Outcome, Reader, Table, libdw, open_reader
from jitunwind.audit.records import WORDS, Record, judged_registers
from jitunwind.audit.session import Session
from jitunwind.errors import NoReader, ReaderFailed
from jitunwind.jits import Code
from jitunwind.publishing.described import frames_of
from jitunwind.rows import SAME_VALUE, WORD, CfaRule, Row, SavedAt, Unknown, UnwindTable
from jitunwind.tables import chosen
from jitunwind.tables.sources import Recovered
from tests.support.live import PATIENCE, PROGRAMS, VERSIONS, Interpreter, interpreter, newest_gdb
from tests.support.machines import EMULATED

CODE, SIZE = 0x10000, 0x100
BACK = 0x5000
"""Where the frame outside goes on."""
STACK = 0x7FFF0000
KEPT = judged_registers(X86_64)
CASES = ["libdw", "gdb-system", "gdb-newest"]


@pytest.fixture(params=CASES)
def name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A reader; of GDB the machine's own, or the newest by $JITUNWIND_GDB."""
    reader, _, gdb = request.param.partition("-")
    monkeypatch.delenv("JITUNWIND_GDB", raising=False)
    if gdb == "newest":
        monkeypatch.setenv("JITUNWIND_GDB", newest_gdb())
    elif gdb and shutil.which("gdb") is None:
        pytest.skip("there is no gdb")
    return str(reader)


@pytest.fixture
def reader(name: str) -> Iterator[Reader]:
    with closing(open_reader(name, X86_64)) as opened:
        yield opened


@pytest.fixture(params=VERSIONS)
def python(request: pytest.FixtureRequest) -> Interpreter:
    return interpreter(request.param)


def steps_of(name: str) -> int:
    return 300 if name == "gdb" else 3000


# Real programs


def test_what_is_recovered_is_exact_as_the_reader_executes_it(python: Interpreter, name: str) -> None:
    steps = steps_of(name)
    command = [sys.executable, "-m", "jitunwind", "audit", "--json", "--table", "recovered"]
    command += ["--reader", name, "--steps", str(steps), "--", *python.command("calls")]
    done = subprocess.run(command, env=python.environment(), capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    tables = json.loads(done.stdout)["tables"]
    assert tables["recovered"]["exact"] == steps
    assert tables[f"recovered/{name}"]["exact"] == steps


@pytest.mark.aarch64
@pytest.mark.parametrize("version", VERSIONS)
def test_both_read_aarch64(version: str) -> None:
    python = interpreter(version, EMULATED.needed("gdb"))
    command = [sys.executable, "-m", "jitunwind", "audit", "--json", "--table", "recovered", "--steps", "100"]
    command += ["--reader", "libdw", "--reader", "gdb", "--", python.python, str(PROGRAMS / "calls.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    tables = json.loads(done.stdout)["tables"]
    assert [found["exact"] for found in tables.values()] == [100] * 3


class WrongInPart(Recovered):
    """As recovered, but that in each third row the CFA is a word too high."""

    def of(self, region: Code) -> UnwindTable:
        table = super().of(region)
        return table._replace(rows=[moved(row) if i % 3 == 1 else row for i, row in enumerate(table.rows)])


def moved(row: Row | Unknown) -> Row | Unknown:
    return row._replace(cfa=CfaRule(row.cfa.register, row.cfa.offset + WORD)) if isinstance(row, Row) else row


def test_wrong_rows_are_found_and_no_others(
    python: Interpreter, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chosen, "Recovered", WrongInPart)
    session = Session(["recovered"], False, False, lambda text: None, [name])
    program = Tracee.start(python.command("calls"), python.environment(), sys.stderr.fileno())
    session.step(program, steps_of(name), False)
    tables = session.report("calls")["tables"]
    ours, theirs = tables["recovered"], tables[f"recovered/{name}"]
    assert ours["wrong"] > 0
    assert ours["exact"] > 0
    assert [theirs[each] for each in ("exact", "wrong")] == [ours[each] for each in ("exact", "wrong")]


# Tables made by hand


def state(pc: int, words: dict[int, int], **registers: int) -> Record:
    """A thread's: the stack pointer at `STACK`, each register its own number unless it is given, `words` of the stack
    by their distance from there."""
    values = [registers.get(each, 0x100 + number) for number, each in enumerate(X86_64.register_names)]
    values[RSP], values[RETURN_ADDRESS] = STACK, pc
    stack = [0] * WORDS
    for by, word in words.items():
        stack[(X86_64.red_zone + by) // WORD] = word
    return (*values, *stack)


def table_of(start: int, *rows: tuple[int, Row], size: int = SIZE) -> Table:
    offsets, each = zip(*rows, strict=True)
    data = frames_of(X86_64, start, UnwindTable(size, list(offsets), list(each)))
    return Table(0, data, ((start, size, data.index(struct.pack("<Q", start)) - 8),))


def row(offset: int, **saved: int) -> Row:
    """CFA = rsp + `offset`; the registers of `saved` are that far from the CFA, the others where they were."""
    rules = dict.fromkeys(KEPT, SAME_VALUE) | {RETURN_ADDRESS: SavedAt(-8)}
    rules |= {X86_64.register_names.index(name): SavedAt(at) for name, at in saved.items()}
    return Row(CfaRule(RSP, offset), tuple(sorted(rules.items())))


def of_kept(record: Record, **values: int | None) -> tuple[int | None, ...]:
    return tuple(values.get(X86_64.register_names[number], record[number]) for number in KEPT)


INSIDE = [(CODE, CODE + SIZE)]


def test_rows_and_registers(reader: Reader) -> None:
    """
    0: push %rbp
    1: sub $16,%rsp    2 rows: the second from +5 on
    5: …
    """
    reader.tell([table_of(CODE, (0, row(8)), (1, row(16, rbp=-16)), (5, row(32, rbp=-16)))], INSIDE)
    first = state(CODE, {0: BACK})
    second = state(CODE + 1, {0: 0x77, 8: BACK})
    third = state(CODE + 0x20, {16: 0x78, 24: BACK})
    assert reader.ask([first, second, third], BACK, []) == [
        Outcome(STACK + 8, BACK, of_kept(first)),
        Outcome(STACK + 16, BACK, of_kept(second, rbp=0x77)),
        Outcome(STACK + 32, BACK, of_kept(third, rbp=0x78)),
    ]
    assert reader.version


def test_frames_inside_are_walked_through(reader: Reader) -> None:
    """The second piece of code calls the first one with its last instruction: the return address is where the third
    one begins."""
    first, second, third = CODE, CODE + 0x40, CODE + 0x80
    tables = [
        table_of(first, (0, row(8)), size=0x40),
        table_of(second, (0, row(32, r12=-16)), size=0x40),
        table_of(third, (0, row(24)), size=0x40),
    ]
    reader.tell(tables, INSIDE)
    record = state(first + 4, {0: third, 24: 0x79, 32: BACK})
    (outcome,) = reader.ask([record], BACK, [])
    assert outcome == Outcome(STACK + 40, BACK, of_kept(record, r12=0x79))


def test_tables_come_and_go(reader: Reader) -> None:
    record = state(CODE + 4, {0: BACK, 8: BACK + 1})
    others = [table_of(CODE + 0x1000 * i, (0, row(8))) for i in range(1, 4)]
    for offset in (16, 8, 16):
        reader.tell([others[0], table_of(CODE, (0, row(offset))), *others[1:]], INSIDE)
        (outcome,) = reader.ask([record], BACK, [])
        assert outcome == Outcome(STACK + offset, BACK + offset // 16, of_kept(record))
    reader.tell(others, INSIDE)
    (outcome,) = reader.ask([record], BACK, [])
    assert outcome != Outcome(STACK + 16, BACK + 1, of_kept(record))


def test_a_register_that_is_gone_is_lost(reader: Reader) -> None:
    gone = row(8)._replace(rules=tuple(rule for rule in row(8).rules if rule[0] not in (RBX, R13)))
    reader.tell([table_of(CODE, (0, gone))], INSIDE)
    record = state(CODE, {0: BACK})
    (outcome,) = reader.ask([record], BACK, [])
    assert outcome == Outcome(STACK + 8, BACK, of_kept(record, rbx=None, r13=None))


def test_memory_behind_the_record_is_read_and_no_other(reader: Reader) -> None:
    beyond = WORD * WORDS - X86_64.red_zone
    reader.tell([table_of(CODE, (0, row(beyond + 16, r12=-16)))], INSIDE)
    record = state(CODE, {})
    memory = [(STACK + beyond, struct.pack("<2Q", 0x7A, BACK))]
    found, lost = [*reader.ask([record], BACK, memory), *reader.ask([record], BACK, [])]
    assert found == Outcome(STACK + beyond + 16, BACK, of_kept(record, r12=0x7A))
    assert isinstance(lost, Unknown)


def test_no_return_address_ends_the_walk(reader: Reader) -> None:
    ended = row(8)._replace(rules=tuple(rule for rule in row(8).rules if rule[0] != RETURN_ADDRESS))
    reader.tell([table_of(CODE, (0, ended))], INSIDE)
    (outcome,) = reader.ask([state(CODE, {0: BACK})], BACK, [])
    assert isinstance(outcome, Unknown)
    assert outcome.reason.startswith(reader.name)


SILENT = bytes.fromhex(
    "14000000 00000000 01 7a5200 01 78 10 01 00"  # a CIE: version 1, "zR", factors 1 and -8, RA is 16, 64-bit pointers
    "0c0710 9001 00 00"  # DW_CFA_def_cfa: rsp + 16; DW_CFA_offset: RA at CFA - 8
    "18000000 1c000000"  # an FDE of that CIE
    "0000010000000000 0001000000000000 00 000000"  # of [CODE, CODE + SIZE)
)


def test_what_a_table_does_not_mention(reader: Reader) -> None:
    """Compilers leave out what has not changed. libdw's own defaults for x86_64 name register 0, rax, where rbx is
    meant (elfutils 0.188, backends/x86_64_cfi.c), so that rbx is lost; GDB keeps all."""
    reader.tell([Table(0, SILENT, ((CODE, SIZE, 24),))], INSIDE)
    record = state(CODE, {8: BACK})
    (outcome,) = reader.ask([record], BACK, [])
    rbx = {"rbx": None} if reader.name == "libdw" else {}
    assert outcome == Outcome(STACK + 16, BACK, of_kept(record, **rbx))


def test_rows_of_aarch64(name: str) -> None:
    """
    0: stp x29, x30, [sp, #-16]!    the return address is in x30 before, then at CFA - 8
    4: …
    """
    kept = judged_registers(AARCH64)
    rules = dict.fromkeys((*kept, X30), SAME_VALUE)
    rows = [
        Row(CfaRule(SP, 0), tuple(rules.items())),
        Row(CfaRule(SP, 16), tuple((rules | {X29: SavedAt(-16), X30: SavedAt(-8)}).items())),
    ]
    frames = frames_of(AARCH64, CODE, UnwindTable(SIZE, [0, 4], rows))
    registers = [*range(0x100, 0x100 + PC), CODE]
    registers[SP], registers[X30] = STACK, BACK
    first = (*registers, *[0] * WORDS)
    registers[PC], registers[X30] = CODE + 8, CODE + 8
    second = (*registers, 0x77, BACK, *[0] * (WORDS - 2))
    values = tuple(registers[number] for number in kept)
    with closing(open_reader(name, AARCH64)) as reader:
        reader.tell([Table(0, frames, ((CODE, SIZE, 0),))], INSIDE)
        assert reader.ask([first, second], BACK, []) == [
            Outcome(STACK, BACK, values),
            Outcome(STACK + 16, BACK, (*values[:-1], 0x77)),
        ]


def test_a_machine_without_libdw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libdw, "LIBRARY", "libdw.so.0")
    with pytest.raises(NoReader, match="libdw cannot be loaded"):
        open_reader("libdw", X86_64)


def test_a_gdb_that_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for gdb in (tmp_path / "gdb", Path(shutil.which("true") or "/bin/true")):
        monkeypatch.setenv("JITUNWIND_GDB", str(gdb))
        with pytest.raises(NoReader, match=gdb.name):
            open_reader("gdb", X86_64)


def test_a_gdb_that_cannot_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It says its version, and no more."""
    wrapper = tmp_path / "gdb"
    wrapper.write_text(
        f'#!/bin/sh\ncase "$*" in *target*) echo I am broken; exit 3;; esac\nexec {shutil.which("gdb")} "$@"\n'
    )
    wrapper.chmod(0o755)
    monkeypatch.setenv("JITUNWIND_GDB", str(wrapper))
    with pytest.raises(ReaderFailed, match="I am broken"):
        open_reader("gdb", X86_64)


def test_a_reader_that_is_killed_is_opened_anew(name: str) -> None:
    before, record = children(), state(CODE + 4, {8: BACK})
    right = Outcome(STACK + 16, BACK, of_kept(record))
    with closing(open_reader(name, X86_64)) as reader:
        reader.tell([table_of(CODE, (0, row(16)))], INSIDE)
        for _ in range(2):
            assert reader.ask([record] * 100, BACK, []) == [right] * 100
            (process,) = children() - before
            os.kill(process, signal.SIGKILL)
        (process,) = children() - before
        os.kill(process, signal.SIGKILL)
        with pytest.raises(ReaderFailed, match=r"crashed|ended"):
            reader.tell([], INSIDE)
    assert children() == before


def children() -> set[int]:
    return set(map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()))
