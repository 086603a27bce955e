"""AArch64 files: what GCC's tables say agrees with what its code does, and what does not is found."""

import subprocess
from collections import Counter
from pathlib import Path

import pytest

from jitunwind.arch.aarch64.registers import AARCH64
from jitunwind.check.compare import PADDING, SIGNATURE, Comparison
from jitunwind.check.functions import Program
from jitunwind.check.rounds import in_turn, judge_all
from tests.support.aarch64 import PREFIX, compiled

SOURCE = r"""
#include <stdlib.h>
#include <string.h>
extern int out(int, const char *);
extern double real(double, double);
int leaf(int a) { return a * 3; }
int saves(int a, int b, int c) { int x = out(a, "x"); int y = out(b, "y"); return x * y + out(c, "z") + a; }
double reals(double a, double b, double c) { return real(a, b) * real(b, c) + a * b * c; }
#define CASE(n) case n: return out(b + n, "c" #n) * n;
int chooses(int a, int b)
{
    switch (a) {
    CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9)
    case 10: if (b) abort(); return out(a, "ten");
    default: return -1;
    }
}
int threaded(const unsigned char *code, int x)
{
    static void *const labels[] = {&&halt, &&add, &&twice, &&call};
    goto *labels[*code++];
add: x += *code; goto *labels[*code++];
twice: x *= 2; goto *labels[*code++];
call: x = out(x, "call"); goto *labels[*code++];
halt: return x;
}
int gives_up(int a) { if (out(a, "?")) { out(a, "bye"); abort(); } return out(a, "!") + a; }
int wide(int n) { char space[n]; memset(space, 1, n); return out(n, space); }
int large(int n) { char space[70000]; memset(space, 1, n); return out(n, space); }
int larger(int n) { char space[0x2340]; memset(space, 1, n); return out(n, space); }
"""
OPTIONS = ["-O0", "-O2", "-Os -fomit-frame-pointer", "-O2 -fno-plt -mbranch-protection=none"]


@pytest.fixture(scope="module", params=OPTIONS)
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compiled")
    options = f"-mbranch-protection=standard -shared -fPIC -fasynchronous-unwind-tables {request.param}"
    return compiled(folder / "a.so", SOURCE, options)


def judged(path: Path) -> Comparison:
    whole = Comparison()
    program = Program(path)
    assert program.arch is AARCH64
    for report in judge_all(program, in_turn(program)).values():
        whole.exact += report.comparison.exact
        whole.wrong += report.comparison.wrong
        whole.unknown += report.comparison.unknown
        assert not report.unresolved
    return whole


def test_gccs_tables_agree_with_its_code(library: Path) -> None:
    found = judged(library)
    assert found.wrong == Counter()
    assert found.exact > 250
    assert found.unknown.total() - found.unknown[PADDING] <= 12


def test_a_table_that_forgets_the_signature_is_wrong(tmp_path: Path) -> None:
    """GIVEN the same code whose table has no DW_CFA_AARCH64_negate_ra_state, THEN that is said wherever the return
    address is signed; each instruction of the table's other rows is exact."""
    path = compiled(tmp_path / "a.so", SOURCE, "-mbranch-protection=standard -shared -fPIC -O2")
    read = subprocess.run(
        [f"{PREFIX}readelf", "--debug-dump=frames", path], capture_output=True, text=True, check=True
    )
    data = bytearray(path.read_bytes())
    program = Program(path)
    section = program.elf.sections[".eh_frame"]
    start = data.index(program.elf.read(section.address, section.size))
    frames = data[start : start + section.size]
    negations = read.stdout.count("DW_CFA_AARCH64_negate_ra_state")
    assert negations > 5
    # advance by one instruction, negate: only a state's change stands there
    data[start : start + section.size] = frames.replace(b"\x41\x2d", b"\x41\x00")
    path.write_bytes(data)
    found = judged(path)
    assert set(found.wrong) == {SIGNATURE}
    assert found.wrong[SIGNATURE] > negations


def test_a_real_library_agrees() -> None:
    found = subprocess.run(
        [f"{PREFIX}gcc", "-print-file-name=libm.so.6"], capture_output=True, text=True, check=True
    )
    comparison = judged(Path(found.stdout.strip()))
    assert comparison.wrong.total() <= comparison.exact / 1000
    assert comparison.exact > 50_000
    assert comparison.unknown.total() <= comparison.exact / 100
