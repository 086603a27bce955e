"""`jitunwind audit --reader`: what real unwinders make of real tables, at every instruction that is stepped."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from jitunwind.arch.known import decoder
from jitunwind.arch.machine import Machine
from jitunwind.arch.x86_64.registers import RETURN_ADDRESS, RSP, X86_64
from jitunwind.audit.ptrace import Tracee
from jitunwind.audit.readers import READERS
from jitunwind.audit.reading import Reading
from jitunwind.audit.records import Record
from jitunwind.audit.session import Session
from jitunwind.dwarf.decode import eh_frame
from jitunwind.dwarf.encode import eh_frame as eh_frame_of
from jitunwind.elf.image import code_file
from jitunwind.jits import Code
from jitunwind.jits.dump import load
from jitunwind.rows import CfaRule, Row, SavedAt, UnwindTable
from jitunwind.tables.sources import Recovered
from tests.live.test_audit import JITUNWIND, audit, of_program
from tests.support.live import PROGRAMS, Interpreter, case, running
from tests.support.machines import HERE

STEPS = 6000
EXACT = ("libgcc", "libunwind")
OPTIONS = [option for reader in EXACT for option in ("--reader", reader)]
OFFSET, RESTORE = b"\x90\x01", b"\xd0\x00"
"""DW_CFA_offset rip, CFA-8; DW_CFA_restore rip and a DW_CFA_nop."""


def assert_exact(report: dict[str, Any], name: str, steps: int = STEPS) -> None:
    table = report["tables"][name]
    assert table["instructions"] == steps, report["said"]
    assert (table["wrong"], table["unknown"]) == (0, 0), report["examples"] or table["reasons"]


@pytest.mark.parametrize("program", ["calls", "exceptions", "generators", "recursion", "side_exits"])
def test_unwinders_read_recovered_tables_right(python: Interpreter, program: str) -> None:
    report = of_program(python, program, "--table", "recovered", *OPTIONS, "--steps", STEPS)
    for reader in EXACT:
        assert_exact(report, f"recovered/{reader}")
    assert report["status"] == 0


def test_the_libgcc_that_is_loaded_first_is_asked(
    python: Interpreter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interpreter's own, where it has come with one: of a newer GCC than this machine's."""
    with running(python, "loops") as started:
        paths = {line.split()[-1] for line in Path(f"/proc/{started.pid}/maps").read_text().splitlines()}
    libgcc = next((path for path in paths if Path(path).name == "libgcc_s.so.1"), None)
    own = Path(python.python).parents[1] / "lib/x86_64-linux-gnu/libgcc_s.so.1"
    library = tmp_path / "libgcc_s.so.1"
    library.symlink_to(libgcc or own.resolve())
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    report = of_program(python, "calls", "--table", "recovered", "--reader", "libgcc", "--steps", STEPS)
    assert_exact(report, "recovered/libgcc")
    assert Path(report["readers"]["libgcc"]).resolve() == library.resolve()


@pytest.mark.parametrize("program", ["calls", "recursion"])
def test_unwinders_read_published_tables_right(python: Interpreter, program: str) -> None:
    with running(python, program, published=True) as started:
        report = audit("--table", "published", *OPTIONS, "--steps", STEPS, started.pid)
    for reader in EXACT:
        assert_exact(report, f"published/{reader}")


def test_llvm_is_wrong_only_where_a_row_begins(python: Interpreter, monkeypatch: pytest.MonkeyPatch) -> None:
    """There it takes the row before, as it would at a return address. It does so with every compiler's tables."""
    begins: dict[bool, int] = {True: 0, False: 0}
    count = Reading._count

    def note(self: Reading, tally: Any, region: Code, record: Record, *others: Any) -> None:
        begins[record[X86_64.program_counter] - region.start in self._tables.of(region).offsets] += 1
        count(self, tally, region, record, *others)

    monkeypatch.setattr(Reading, "_count", note)
    session = Session(["recovered"], False, False, lambda text: None, ["llvm-libunwind"])
    program = [python.python, str(PROGRAMS / "side_exits.py")]
    with open(os.devnull, "wb") as nowhere:
        session.step(Tracee.start(program, python.environment(), nowhere.fileno()), STEPS, False)
    found = session.report("side_exits")["tables"]["recovered/llvm-libunwind"]
    assert found["instructions"] == STEPS
    assert found["exact"] > 0.8 * STEPS
    assert begins[True]
    assert not begins[False], found["reasons"]


def restored(dump: Path) -> tuple[bytes, int]:
    """An object with the tables of all code in `dump`, in which DW_CFA_restore brings a return address back that was
    undefined, and how often it does. By the standard they are the same."""
    recovered = Recovered(X86_64, decoder(X86_64))
    frames, count = [], 0
    for _, data in recovered.encoded(load(dump).codes):
        changed = bytearray(data)
        for fde in eh_frame(data, 0):
            at = data.index(fde.instructions, fde.offset)
            count += fde.instructions.count(OFFSET)
            changed[at : at + len(fde.instructions)] = fde.instructions.replace(OFFSET, RESTORE)
        frames.append((0, bytes(changed)))
    return code_file(Machine.X86_64, [], frames, ("tests", b"")), count


@pytest.mark.one_version("the damage is done to rows that only 3.14's code has")
@pytest.mark.parametrize("python", [case("3.14", HERE)], indirect=True)
def test_a_table_that_libgcc_reads_otherwise_is_found(python: Interpreter, tmp_path: Path) -> None:
    """As tables were published once: walks through them never ended."""
    dump, tables = tmp_path / "dump", tmp_path / "tables.elf"
    with running(python, "calls") as started:
        command = [*JITUNWIND, "dump", str(started.pid), "-o", str(dump)]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, done.stderr
        image, count = restored(dump)
        assert count
        tables.write_bytes(image)
        report = audit("--table", tables, *OPTIONS, "--steps", STEPS, started.pid)
    assert_exact(report, str(tables))  # our own decoder, which follows the standard
    assert_exact(report, f"{tables}/libunwind")
    assert report["tables"][f"{tables}/libgcc"]["wrong"] > 0.1 * STEPS
    assert report["status"] == 1


FAR = UnwindTable(16, [0], [Row(CfaRule(RSP, 8), ((RETURN_ADDRESS, SavedAt(-8)),))])
STRANGE = UnwindTable(1 << 40, [0], [Row(CfaRule(999, 8), ((RETURN_ADDRESS, SavedAt(-8)),))])


@pytest.mark.parametrize(
    "tables", [[(0x1000, FAR), (1 << 46, FAR)], [(1 << 46, STRANGE)]], ids=["far apart", "strange register"]
)
def test_tables_of_no_use_end_no_audit(
    python: Interpreter, tmp_path: Path, tables: list[tuple[int, UnwindTable]]
) -> None:
    path = tmp_path / "tables.elf"
    frames = eh_frame_of(X86_64, tables)
    path.write_bytes(code_file(Machine.X86_64, [], [(0, frames)], ("tests", b"")))
    report = of_program(python, "loops", "--table", path, "--reader", "libgcc", "--steps", 300)
    assert report["status"] == 1
    assert report["tables"][str(path)]["unknown"] == 300


def refused(*arguments: object) -> str:
    done = subprocess.run(
        [*JITUNWIND, "audit", *map(str, arguments)], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_reader_that_is_none_and_one_that_has_nothing_to_read_are_refused() -> None:
    said = refused("--reader", "libgc", "true")
    assert all(reader in said for reader in READERS)
    assert "add --steps" in refused("--reader", "libgcc", "--static", "1")
    assert "options go before it" in refused("1", "--static")
