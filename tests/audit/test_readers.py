"""The unwinders in the helper process: what they make of made-up tables and states."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from jitunwind.arch.aarch64.registers import AARCH64
from jitunwind.arch.x86_64.registers import RAX, RBP, RBX, RETURN_ADDRESS, RSP, X86_64
from jitunwind.audit.readers import Outcome, Table, inprocess, open_reader
from jitunwind.audit.readers.guarded import Guarded
from jitunwind.audit.readers.inprocess import InProcess
from jitunwind.audit.records import WORDS, Record
from jitunwind.dwarf.decode import eh_frame
from jitunwind.errors import NoReader, ReaderFailed
from jitunwind.publishing.described import frames_of
from jitunwind.rows import SAME_VALUE, WORD, CfaRule, RegisterRule, Row, SavedAt, Unknown, UnwindTable

CODE, SIZE, BACK = 0x7E12_3456_7000, 0x40, 0x7E99_0000_1234
STACK = 0x7D00_0000_0100
KEPT = {RBX: 0x3333, RBP: 0x6666, 12: 0xCCCC, 13: 0xDDDD, 14: 0xEEEE, 15: 0xFFFF}
"""What the caller has in its callee-saved registers."""
SAME: dict[int, RegisterRule] = dict.fromkeys(KEPT, SAME_VALUE)


def row(cfa: int, rules: dict[int, RegisterRule] | None = None, register: int = RSP) -> Row:
    every = {**SAME, RETURN_ADDRESS: SavedAt(-8), **(rules or {})}
    return Row(CfaRule(register, cfa), tuple(sorted(every.items())))


PUSHED = row(16, {RBX: SavedAt(-16)})
TABLE = UnwindTable(SIZE, [0, 8, 16, 24], [row(8), PUSHED, Unknown("no path leads here"), PUSHED])


def as_table(table: UnwindTable, change: tuple[bytes, bytes] = (b"", b"")) -> Table:
    """Its bytes as they are published; with `change`, one byte string in the place of another."""
    data = frames_of(X86_64, CODE, table).replace(*change) if change[0] else frames_of(X86_64, CODE, table)
    fdes = tuple((fde.start, fde.size, fde.offset) for fde in eh_frame(data, 0))
    return Table(0, data, fdes)


def state(offset: int, cfa: int, words: dict[int, int] | None = None, **changes: int) -> Record:
    """The record of a thread at `offset`, whose CFA is `cfa` bytes above its stack pointer; `words`: at the stack
    pointer plus so much."""
    registers = [0] * 17
    for register, value in KEPT.items():
        registers[register] = value
    registers[RSP], registers[RETURN_ADDRESS] = STACK, CODE + offset
    for name, value in changes.items():
        registers[X86_64.register_names.index(name)] = value
    stack = {cfa - WORD: BACK, **(words or {})}
    below = X86_64.red_zone
    return (*registers, *(stack.get(at * WORD - below, 0) for at in range(WORDS)))


def right(cfa: int) -> Outcome:
    return Outcome(STACK + cfa, BACK, tuple(KEPT.values()))


@pytest.fixture(scope="session")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The helper program, watched by AddressSanitizer and UndefinedBehaviorSanitizer."""
    program = tmp_path_factory.mktemp("readers") / "unwinders"
    source = Path(inprocess.PROGRAM).with_suffix(".c")
    others = [source.parents[2] / "agent" / name for name in ("libgcc.c", "libunwind.c", "unwinding.c")]
    flags = ["-pie", "-fPIC", "-O1", "-g", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-pthread"]
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    command = ["gcc", *flags, *sanitizers, "-o", program, source, *others, "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return program


@pytest.fixture(params=[f"{name}{how}" for name in inprocess.LIBRARIES for how in ("", ", sanitized")])
def reader(
    request: pytest.FixtureRequest, sanitized: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[InProcess]:
    name, _, how = request.param.partition(", ")
    if how:
        monkeypatch.setattr(inprocess, "PROGRAM", str(sanitized))
        # Its own handlers stay away: the program has handlers for wrong addresses, and a stack for them.
        monkeypatch.setenv(
            "ASAN_OPTIONS", "handle_segv=0:handle_sigbus=0:use_sigaltstack=0:detect_leaks=0:exitcode=77"
        )
    reader = InProcess(name, X86_64)
    yield reader
    if reader._helper.poll() is not None:
        assert reader._helper.returncode == -signal.SIGABRT, "the sanitizers have found something"
    reader.close()


def test_finds_the_caller_of_states_in_each_row(reader: InProcess) -> None:
    """`push %rbx` has been run from offset 8 on; at 16 to 23 lies code that no path leads to."""
    reader.tell([as_table(TABLE)], [(CODE, CODE + SIZE)])
    pushed = {"words": {0: KEPT[RBX]}, "rbx": 0x123}
    records = [state(1, 8), state(9, 16, **pushed), state(25, 16, **pushed), state(40, 16, **pushed)]  # type: ignore[arg-type]
    assert reader.ask(records, BACK, ()) == [right(8), right(16), right(16), right(16)]
    assert os.path.basename(reader.version).startswith("lib")


def test_a_row_holds_from_its_first_instruction_on_but_for_llvm(reader: InProcess) -> None:
    """LLVM's libunwind takes the row before, as for a return address: this is its own fault with every table."""
    reader.tell([as_table(TABLE)], [(CODE, CODE + SIZE)])
    found = reader.ask([state(8, 16, {0: KEPT[RBX]}, rbx=0x123)], BACK, ())
    assert (found == [right(16)]) == (reader.name != "llvm-libunwind")


def test_the_walk_ends_where_no_path_leads_and_where_there_is_no_table(reader: InProcess) -> None:
    reader.tell([as_table(TABLE)], [(CODE, CODE + 2 * SIZE)])
    if reader.name == "libunwind":  # goes by rbp, where there is no table
        assert reader.ask([state(20, 16)], BACK, ()) == [Unknown("libunwind ends the walk in JIT code")]
        return
    ends = Unknown(f"{reader.name} ends the walk in JIT code")
    assert reader.ask([state(20, 16), state(SIZE + 4, 16)], BACK, ()) == [ends, ends]


def test_a_restored_return_address_is_wrong_for_libgcc(reader: InProcess) -> None:
    """The table as it was once published: right by the standard, and by our own decoder, but libgcc takes
    DW_CFA_restore for "same value", and never leaves JIT code."""
    restored = as_table(
        TABLE, (b"\x90\x01", b"\xd0\x00")
    )  # DW_CFA_offset rip, CFA-8: DW_CFA_restore rip, nop
    last = eh_frame(restored.data, 0)
    assert [fde.instructions.count(b"\xd0") for fde in last] == [1]
    # The CIE says it by DW_CFA_offset.
    cie = as_table(TABLE).data.index(b"\x90\x01")
    data = restored.data[:cie] + b"\x90\x01" + restored.data[cie + 2 :]
    reader.tell([restored._replace(data=data)], [(CODE, CODE + SIZE)])
    (found,) = reader.ask([state(40, 16, {0: KEPT[RBX]}, rbx=0x123)], BACK, ())
    assert (found == right(16)) == (reader.name == "libunwind")
    if reader.name == "libgcc":
        assert isinstance(found, Outcome)
        assert found.return_address == CODE + 40


def test_a_table_that_leads_nowhere_harms_nobody(reader: InProcess) -> None:
    """Its CFA is counted from a register that holds no address."""
    nowhere = UnwindTable(SIZE, [0], [row(0, register=RAX)])
    reader.tell([as_table(nowhere)], [(CODE, CODE + SIZE)])
    nowhere_at = state(4, 8, rax=0xDEAD_BEEF_DEAD_BEE8)
    if reader.name == "llvm-libunwind":  # it aborts, and a new one has to be opened
        with pytest.raises(ReaderFailed, match="crashed"):
            reader.ask([nowhere_at], BACK, ())
        return
    (found,) = reader.ask([nowhere_at], BACK, ())
    assert isinstance(found, Unknown)
    reader.tell([as_table(TABLE)], [(CODE, CODE + SIZE)])
    assert reader.ask([state(1, 8)], BACK, ()) == [right(8)]


def test_tables_come_and_go(reader: InProcess) -> None:
    inside = [(CODE, CODE + SIZE)]
    other = as_table(UnwindTable(SIZE, [0], [row(24)]))
    for table, cfa in ((as_table(TABLE), 8), (other, 24), (as_table(TABLE), 8)):
        reader.tell([table], inside)
        assert reader.ask([state(1, cfa)], BACK, ()) == [right(cfa)]


def test_a_helper_that_has_died_is_replaced() -> None:
    helpers: list[InProcess] = []

    def start() -> InProcess:
        helpers.append(InProcess("libgcc", X86_64))
        return helpers[-1]

    reader = Guarded(start)
    reader.tell([as_table(TABLE)], [(CODE, CODE + SIZE)])
    os.kill(helpers[0]._helper.pid, signal.SIGKILL)
    helpers[0]._helper.wait()
    assert reader.ask([state(1, 8)] * 3, BACK, ()) == [right(8)] * 3
    reader.close()


def test_helpers_that_cannot_be_run_or_never_answer_say_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "helper"
    program.write_text("#!/bin/sh\nexec sleep 1000\n")
    monkeypatch.setattr(inprocess, "PROGRAM", str(program))
    with pytest.raises(NoReader, match="cannot be run"):
        open_reader("libgcc", X86_64)
    program.chmod(0o755)
    monkeypatch.setattr(inprocess, "_PATIENCE", 0.1)
    with pytest.raises(ReaderFailed, match="has not come to an end"):
        open_reader("libgcc", X86_64)


def test_what_cannot_be_asked_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NoReader, match="x86_64"):
        open_reader("libgcc", AARCH64)
    monkeypatch.setitem(inprocess.LIBRARIES, "libunwind", "libthere-is-none.so.1")
    with pytest.raises(NoReader, match="there is no libthere"):
        open_reader("libunwind", X86_64)
