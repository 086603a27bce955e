"""The emulator and the recovered states as witnesses: on machine code that is hard to follow, or wrong."""

import subprocess
import sys
from pathlib import Path

import pytest

from jitunwind.arch.x86_64.effects import decode
from jitunwind.arch.x86_64.emulation import EMULATED
from jitunwind.arch.x86_64.registers import R10, R12, RBP, RBX, RETURN_ADDRESS, RSP, X86_64
from jitunwind.audit.emulator import Counts, Emulator
from jitunwind.audit.offline import NO_PATH, Offline
from jitunwind.audit.witness import Witness
from jitunwind.jits import Code
from jitunwind.jits.dump import Dump, save
from jitunwind.recover.instructions import Instructions
from jitunwind.rows import SAME_VALUE, CfaRule, InRegister, Row, SavedAt, Unknown, UnwindTable
from jitunwind.tables.sources import Frame, Given, Recovered, Tables
from tests.support.assembly import assemble, disassembly
from tests.support.codes import cpython_code

START = 0x7F00_0000_0000
NOWHERE = Unknown("nothing")
SHIM = """
    push r15
    push r14
    push r13
    push r12
    push rbx
    mov r12, rdi
    call body
    pop rbx
    pop r12
    pop r13
    pop r14
    pop r15
    ret
body:
"""
PLAIN = """
    push rbp
    mov rbp, [r12+8]
    test rbp, rbp
    je aside
    call [r12+16]
    pop rbp
    ret
aside:
    pop rbp
    jmp [r12+24]
"""


def region_of(body: str) -> Code:
    code = assemble(SHIM + body)
    return cpython_code(START, code.bytes, code.labels["body"], 0)


def offline_of(region: Code) -> Offline:
    def instructions_of(code: Code) -> Instructions:
        return Instructions(X86_64, decode, code.data, dict(code.entries))

    dump = Dump("CPython 3.14.10", X86_64, [region], ["py::f:/tmp/f.py"])
    return Offline(X86_64, decode, dump, instructions_of, lambda text: None, lambda: False)


def emulator_of(region: Code) -> Emulator:
    return Emulator(X86_64, EMULATED, decode, Dump("CPython 3.14.10", X86_64, [region], ["py::f:/tmp/f.py"]))


def emulated(region: Code, *tables: Tables) -> tuple[Witness, Counts]:
    emulator = emulator_of(region)
    return offline_of(region).emulate(emulator, tables, [], tables), emulator.counts


def rows_of(region: Code) -> UnwindTable:
    table = Recovered(X86_64, decode).of(region)
    assert isinstance(table, UnwindTable)
    return table


def given(region: Code, table: UnwindTable) -> Given:
    laid: Frame = (region.start, region.size, table)
    return Given("given", [], [laid], NOWHERE)


def with_row(region: Code, label: str, row: Row) -> UnwindTable:
    """The recovered table with another row for the one instruction that begins with `label` in AT&T's words."""
    places = [offset for offset, _ in disassembly(region.data)]
    at = next(
        offset for offset, text in disassembly(region.data, "att") if " ".join(text.split()).startswith(label)
    )
    table = rows_of(region)
    rows = {offset: table.at(offset) for offset in places} | {at: row}
    return UnwindTable(region.size, list(rows), list(rows.values()))


def test_every_path_of_plain_code_is_exact_and_leaves_as_it_came() -> None:
    region = region_of(PLAIN)
    witness, counts = emulated(region, Recovered(X86_64, decode))
    found = witness.findings["recovered"]
    reachable = offline_of(region)._instructions_of(region).reachable
    assert len(reachable) == len(disassembly(region.data))
    assert (found.total.exact, found.total.wrong, found.total.unknown) == (len(reachable), 0, 0), (
        found.examples
    )
    assert witness.judged[START, region.data].offsets == set(reachable)
    assert (counts.exits, counts.bad_exits) == (2, 0)


@pytest.mark.parametrize("witness", ["emulated", "static"])
@pytest.mark.parametrize(
    ("label", "row", "registers"),
    [
        (
            "test",
            Row(CfaRule(RSP, 8), ((RBP, SAME_VALUE), (RETURN_ADDRESS, SavedAt(-8)))),
            {"CFA", "RA", "rbp"},
        ),
        ("test", Row(CfaRule(RSP, 16), ((RBP, SAME_VALUE), (RETURN_ADDRESS, SavedAt(-8)))), {"rbp"}),
        ("pop %rbp", Row(CfaRule(RSP, 16), ((RBP, InRegister(R10)), (RETURN_ADDRESS, SavedAt(-8)))), {"rbp"}),
        ("push %r12", Row(CfaRule(RSP, 32), ((RETURN_ADDRESS, SavedAt(-8)),)), set()),
    ],
)
def test_a_wrong_row_is_found(witness: str, label: str, row: Row, registers: set[str]) -> None:
    region = region_of(PLAIN)
    table = given(region, with_row(region, label, row))
    if witness == "emulated":
        found = emulated(region, table)[0].findings["given"]
    else:
        found = offline_of(region).compare([table], []).findings["given"]
    wrong = {name for name, count in found.wrong.items() if count}
    assert registers <= wrong
    assert found.total.wrong == bool(registers)
    assert found.total.unknown == (not registers), "rows without a register leave it unknown"


def test_what_a_callee_may_overwrite_is_no_place_to_keep_a_register() -> None:
    region = region_of("mov r10, rbp\nmov rbp, r12\ncall [r12+16]\nmov rbp, r10\nret\n")
    behind = Row(CfaRule(RSP, 8), ((RBP, InRegister(R10)), (RETURN_ADDRESS, SavedAt(-8))))
    found = emulated(region, given(region, with_row(region, "mov %r10,%rbp", behind)))[0].findings["given"]
    assert found.wrong["rbp"] >= 1
    _, counts = emulated(region, Recovered(X86_64, decode))
    assert (counts.exits, counts.bad_exits) == (0, 1), "rbp is lost, and the return says so"


def test_what_another_region_left_on_the_stack_is_nowhere() -> None:
    """A row that finds rbx where the shim will push it: wrong until it has."""
    region = region_of(PLAIN)
    twice = Dump(
        "3.14.10",
        X86_64,
        [region, cpython_code(START + 0x10000, region.data, region.gate_size, 0)],
        ["f", "g"],
    )
    early = Row(
        CfaRule(RSP, 8),
        (
            *((r, SAME_VALUE) for r in X86_64.callee_saved if r != RBX),
            (RBX, SavedAt(-48)),
            (RETURN_ADDRESS, SavedAt(-8)),
        ),
    )
    table = with_row(region, "push %r15", early)
    laid: list[Frame] = [(code.start, code.size, table) for code in twice.codes]
    offline = offline_of(region)
    offline.dump = twice
    emulator, tables = Emulator(X86_64, EMULATED, decode, twice), [Given("given", [], laid, NOWHERE)]
    found = offline.emulate(emulator, tables, [], tables).findings["given"]
    assert (found.total.wrong, found.wrong["rbx"]) == (2, 2), found.examples


def test_both_ways_into_an_instruction_are_judged() -> None:
    """Two paths meet with different stacks: whichever depth a table says, it is wrong on one of them."""
    region = region_of("test r12, r12\nje meet\npush r12\nmeet: nop\nmov rsp, rbx\nret\n")
    wrong = []
    for depth in (8, 16):
        row = Row(CfaRule(RSP, depth), ((RBP, SAME_VALUE), (RETURN_ADDRESS, SavedAt(-8))))
        found = emulated(region, given(region, with_row(region, "nop", row)))[0].findings["given"]
        wrong.append(found.wrong["CFA"])
    assert min(wrong) >= 1


def test_an_address_that_cannot_be_made_up_keeps_nobody_from_what_is_behind() -> None:
    region = region_of("mov rdi, -1\nmov eax, [rdi]\npush rbp\npop rbp\nret\n")
    total = emulated(region, Recovered(X86_64, decode))[0].findings["recovered"].total
    assert (total.wrong, total.unknown) == (0, 0)
    lost = region_of("mov rdi, -1\nmov rbp, [rdi]\npush rbp\npop rbp\nret\n")
    assert emulated(lost, Recovered(X86_64, decode))[0].findings["recovered"].total.unknown


def test_what_the_emulator_cannot_run_is_unknown_with_its_reason() -> None:
    region = region_of("vaddps ymm0, ymm1, ymm2\npush rbp\npop rbp\nret\n")
    found = emulated(region, Recovered(X86_64, decode))[0].findings["recovered"]
    assert found.total.wrong == 0
    assert found.total.unknown >= 3
    assert [reason.startswith("the emulator cannot run") for reason in found.reasons] == [True]


def test_what_no_path_reaches_is_unknown_unless_another_witness_is_left() -> None:
    region = region_of("vaddps ymm0, ymm1, ymm2\nret\n")
    offline, table = offline_of(region), given(region, rows_of(region))
    recovered = Recovered(X86_64, decode)
    first = offline.emulate(emulator_of(region), [recovered, table], [], [recovered])
    assert first.findings["given"].total.unknown == 0 < first.findings["recovered"].total.unknown
    second = offline.compare([recovered, table], [first])
    assert list(second.findings) == ["given"], "recovered rows are no witness of themselves"
    both = [witness.findings["given"].total for witness in (first, second)]
    assert sum(total.instructions for total in both) == len(offline._instructions_of(region).reachable)
    assert all(total.exact == total.instructions for total in both)
    assert not first.judged[START, region.data].offsets & second.judged[START, region.data].offsets
    assert NO_PATH not in first.findings["recovered"].reasons


@pytest.mark.parametrize(
    "body",
    [
        "call 1f\n1: pop rax\nret\n",
        "mov rsp, r12\nret\n",
        "sub rsp, 0x100000\nret\n",
        "again: push rax\npop rax\nloop again\nret\n",
        "jmp body\n",
        "rep stosq\nret\n",
        "ud2\n",
        "div r12\nret\n",
        "mov qword ptr [rip], 0\nret\n",
        "syscall\nret\n",
        "",
    ],
)
def test_strange_code_ends(body: str) -> None:
    region = region_of(body)
    found = emulated(region, Recovered(X86_64, decode))[0].findings["recovered"]
    assert found.total.wrong == 0
    assert found.total.instructions > 7


def test_a_body_that_returns_with_another_stack_is_found_out() -> None:
    region = region_of("ret 8\n")
    witness, counts = emulated(region, Recovered(X86_64, decode))
    assert witness.findings["recovered"].wrong["CFA"], "the shim's rows do not hold behind it"
    assert (counts.exits, counts.bad_exits) == (0, 1)


def test_without_unicorn_it_says_how_to_get_it(tmp_path: Path) -> None:
    path = tmp_path / "jit.dump"
    path.write_bytes(save(Dump("CPython 3.14.10", X86_64, [region_of(PLAIN)], ["py::f:/tmp/f.py"])))
    program = (
        "import sys; sys.modules['unicorn'] = None; from jitunwind.cli import main; "
        f"sys.argv = ['jitunwind', 'audit', '--emulate', {str(path)!r}]; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "needs unicorn" in done.stderr
    assert "pip install 'unicorn" in done.stderr
    assert "Traceback" not in done.stderr


def test_registers_in_order() -> None:
    """`RBX` and the like are indices into what the emulator hands over."""
    seen = []

    def judge(region, registers, activation, dump) -> None:  # type: ignore[no-untyped-def]
        seen.append((registers, activation.truth))

    region = region_of(PLAIN)
    instructions = Instructions(X86_64, decode, region.data, dict(region.entries))
    emulator_of(region).run(region, instructions, judge)
    registers, truth = seen[0]
    assert registers[-1] == START
    assert registers[RSP] == truth[RSP] - 8
    assert [registers[r] for r in (RBX, RBP, R12)] == [truth[r] for r in (RBX, RBP, R12)]
    assert len(set(registers)) == len(registers)
