"""The comparison of recovered states with compilers' tables: it agrees where it should, and can fail."""

import platform
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from jitunwind.arch.x86_64.registers import R12, RBP, RBX, RSP, X86_64
from jitunwind.check.compare import (
    EXACT,
    NO_CFA,
    OUTERMOST,
    PADDING,
    SAYS_UNDEFINED,
    Comparison,
    Judge,
    Wrong,
)
from jitunwind.check.functions import Program, Report
from jitunwind.check.rounds import in_turn, judge_all
from jitunwind.recover.state import Entry, States
from jitunwind.rows import (
    SAME_VALUE,
    UNDEFINED,
    CfaRule,
    InRegister,
    RegisterRule,
    Row,
    SavedAt,
    Unknown,
    UnwindTable,
)

SOURCE = r"""
#include <stdlib.h>
#include <string.h>
extern int out(int, const char *);
int leaf(int a) { return a * 3; }
int saves(int a, int b, int c) { int x = out(a, "x"); int y = out(b, "y"); return x * y + out(c, "z") + a; }
int chooses(int a, int b)
{
    switch (a) {
    case 0: return out(b, "zero");
    case 1: return out(b, "one") + b;
    case 2: out(b, "two"); return out(b + 1, "two");
    case 3: return b;
    case 4: return out(b, "four") * out(b, "vier");
    case 5: if (b) abort(); return out(a, "five");
    default: return -1;
    }
}
int gives_up(int a) { if (out(a, "?")) { out(a, "bye"); abort(); } return out(a, "!") + a; }
int wide(int n) { char space[n]; memset(space, 1, n); return out(n, space); }
int framed(int a, int b, int c, int d, int e, int f, int g) { return out(a + g, "many") + f; }
"""

needs_gcc = pytest.mark.skipif(
    shutil.which("gcc") is None or platform.machine() != "x86_64", reason="needs gcc on x86_64"
)


@pytest.fixture(scope="module", params=["-O0", "-O2", "-Os -fno-omit-frame-pointer"])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Program:
    folder = tmp_path_factory.mktemp("compiled")
    (folder / "a.c").write_text(SOURCE)
    command = ["gcc", "-w", "-shared", "-fPIC", *request.param.split(), "-o", folder / "a.so", folder / "a.c"]
    subprocess.run(command, check=True)
    return Program(folder / "a.so")


def total(reports: dict[int, Report]) -> Comparison:
    whole = Comparison()
    for report in reports.values():
        whole.exact += report.comparison.exact
        whole.wrong += report.comparison.wrong
        whole.unknown += report.comparison.unknown
    return whole


@needs_gcc
def test_all_of_a_compiled_file_agrees_and_is_reached(program: Program) -> None:
    whole = total(judge_all(program, in_turn(program)))
    assert whole.exact > 100
    assert whole.wrong == Counter()
    # PLT entries have their CFA by an expression, and crtbegin.o's code is there as well.
    assert set(whole.unknown) <= {PADDING, "the CFA is given by an expression"}


class Falsified(Program):
    """A program whose tables are not what its compiler wrote."""

    def __init__(self, path: Path, change: "dict[int, UnwindTable]") -> None:
        super().__init__(path)
        self.change = change

    def table(self, index: int) -> UnwindTable:
        return self.change.get(index) or super().table(index)


def changed(table: UnwindTable, row: int, new: Row | Unknown) -> UnwindTable:
    rows = list(table.rows)
    rows[row] = new
    return table._replace(rows=rows)


@needs_gcc
def test_every_falsified_row_is_found_at_its_place(program: Program) -> None:
    """GIVEN one row with its CFA off by 8, WHEN compared, THEN just that row's instructions are wrong."""
    found = 0
    for index in range(len(program.fdes)):
        table = program.table(index)
        for number, row in list(enumerate(table.rows))[1:]:
            if not isinstance(row, Row):
                continue
            bad = row._replace(cfa=CfaRule(row.cfa.register, row.cfa.offset + 8))
            falsified = Falsified(program.elf.path, {index: changed(table, number, bad)})
            report = falsified.judge(index, {}, program.never)
            start, end, _ = list(table.spans())[number]
            wrong = [f for f in report.comparison.findings if isinstance(f.verdict, Wrong)]
            assert wrong, f"row {number} of the function at {program.fdes[index].start:#x}"
            assert all(start <= finding.offset < end for finding in wrong)
            found += 1
        if found > 40:
            break
    assert found > 10


@needs_gcc
def test_a_register_said_to_be_unchanged_where_it_is_not_is_found(program: Program) -> None:
    """GIVEN tables that never mention rbx or r12, THEN their use as scratch registers is found."""
    tables = {}
    for index in range(len(program.fdes)):
        table = program.table(index)
        rows = [
            row._replace(rules=tuple((r, SAME_VALUE if r in (RBX, R12, RBP) else x) for r, x in row.rules))
            if isinstance(row, Row)
            else row
            for row in table.rows
        ]
        tables[index] = table._replace(rows=rows)
    falsified = Falsified(program.elf.path, tables)
    whole = total(judge_all(falsified, in_turn(falsified)))
    assert whole.wrong["register: table says unchanged, recovered saved"] > 20


@needs_gcc
def test_a_call_that_never_returns_ends_its_path_by_proof(tmp_path: Path) -> None:
    """GIVEN a static function that never returns and is no known name, THEN what follows its call is not
    judged in that call's state."""
    (tmp_path / "a.c").write_text(
        "extern void out(int); extern _Noreturn void abort(void);"
        "__attribute__((noinline)) static void dies(int a) { for (;;) { out(a); if (a) abort(); } }"
        "int f(int a, int b) { int c = a * b; if (a) { out(b); dies(c); } out(c); return c; }"
        "int g(int a) { return a; }"
    )
    subprocess.run(
        ["gcc", "-w", "-O2", "-shared", "-fPIC", "-o", tmp_path / "a.so", tmp_path / "a.c"], check=True
    )
    program = Program(tmp_path / "a.so")
    reports = judge_all(program, in_turn(program))
    assert total(reports).wrong == Counter()
    starts = {s.name: s.address for s in program.elf.functions() if s.name in ("f", "dies")}
    assert not reports[program.starts.index(starts["dies"])].returns
    assert reports[program.starts.index(starts["f"])].returns


@pytest.mark.skipif(
    shutil.which("g++") is None or platform.machine() != "x86_64", reason="needs g++ on x86_64"
)
@pytest.mark.parametrize("level", ["-O0", "-O2"])
def test_landing_pads_and_cold_parts_are_reached_and_agree(tmp_path: Path, level: str) -> None:
    """GIVEN C++ with destructors and handlers, whose code is entered by throwing alone, THEN it is judged."""
    (tmp_path / "a.cc").write_text(
        "struct Held { int a; Held(int); ~Held(); int more(int); }; int out(int);"
        "int nested(int a) { Held one(a); try { Held two(a + 1); return two.more(out(a)); }"
        " catch (int b) { Held three(b); return three.more(a) + out(b); } }"
        "int throws(int a) { Held one(a); if (one.more(a)) throw a; return out(a); }"
        "int loops(int a) { int s = 0; while (a--) { Held one(a); s += one.more(s); } return s; }"
    )
    command = ["g++", "-w", level, "-shared", "-fPIC", "-o", str(tmp_path / "a.so"), str(tmp_path / "a.cc")]
    subprocess.run(command, check=True)
    program = Program(tmp_path / "a.so")
    assert sum(fde.lsda is not None for fde in program.fdes) >= 3
    whole = total(judge_all(program, in_turn(program)))
    assert whole.exact > 60
    assert whole.wrong == Counter()
    assert set(whole.unknown) <= {PADDING, "the CFA is given by an expression"}


class TestVerdicts:
    """One state, and what each row is worth in it."""

    STATES = States(X86_64)
    STATE = STATES.make(
        {RSP: -24, RBP: Entry(RBP), RBX: Entry(RBX), R12: -24, 13: Entry(13), 14: Entry(14), 15: Entry(15)},
        {-8: Entry(16), -16: Entry(R12), -24: Entry(RBX)},
    )

    def verdict(self, cfa: CfaRule | None = None, **changes: RegisterRule) -> object:
        rules: dict[int, RegisterRule] = {
            **dict.fromkeys((RBX, RBP, 13, 14, 15), SAME_VALUE),
            R12: SavedAt(-16),
            16: SavedAt(-8),
        }
        rules.update({int(name[1:]): rule for name, rule in changes.items()})
        return Judge(X86_64).verdict(
            self.STATE, Row(cfa or CfaRule(RSP, 24), tuple(sorted(rules.items()))), disagreed=False
        )

    def test_two_true_descriptions_are_both_exact(self) -> None:
        assert self.verdict() == EXACT
        assert self.verdict(_3=SavedAt(-24)) == EXACT
        assert self.verdict(cfa=CfaRule(R12, 24)) == EXACT

    @pytest.mark.parametrize(
        ("changes", "about"),
        [
            ({"cfa": CfaRule(RSP, 16)}, "CFA: another offset from rsp"),
            ({"cfa": CfaRule(RBX, 24)}, "CFA: rbx is not a frame address"),
            ({"_12": SAME_VALUE}, "register: table says unchanged, recovered saved"),
            ({"_12": SavedAt(-24)}, "register: table says saved, recovered saved elsewhere"),
            ({"_6": InRegister(RBX)}, "register: table says in another register, recovered unchanged"),
            ({"_16": SavedAt(-16)}, "return address: table says saved, recovered saved elsewhere"),
        ],
    )
    def test_each_false_rule_is_wrong(self, changes: dict[str, object], about: str) -> None:
        assert self.verdict(**changes) == Wrong(about)  # type: ignore[arg-type]

    def test_no_claim_is_unknown(self) -> None:
        assert self.verdict(_16=UNDEFINED) == Unknown(OUTERMOST)
        assert self.verdict(_3=UNDEFINED) == Unknown(SAYS_UNDEFINED)
        assert Judge(X86_64).verdict(self.STATE, Unknown("because"), disagreed=False) == Unknown("because")

    def test_a_lost_frame_address_is_unknown_not_wrong(self) -> None:
        lost = self.STATES.make({}, {})
        row = Row(CfaRule(RSP, 8), ((16, SavedAt(-8)),))
        assert Judge(X86_64).verdict(lost, row, disagreed=False) == Unknown(NO_CFA)


def test_a_whole_library_agrees() -> None:
    path = Path("/usr/lib/x86_64-linux-gnu/libz.so.1")
    if not path.is_file():
        pytest.skip(f"needs {path}")
    program = Program(path)
    whole = total(judge_all(program, in_turn(program)))
    judged = whole.exact + whole.wrong.total()
    assert judged > 10_000
    assert whole.exact / judged > 0.999, whole.wrong
    assert judged / (whole.instructions - whole.unknown[PADDING]) > 0.97, whole.unknown
