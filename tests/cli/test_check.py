"""`jitunwind check`: what is wrong is found where it is, and what cannot be used is told."""

import json
import os
import pty
import re
import signal
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from jitunwind.check.files import result_of
from jitunwind.check.functions import Program
from jitunwind.check.report import Checked
from jitunwind.cli.check import _text
from tests.support.compiled import compiled, needs_gcc
from tests.support.processes import PATIENCE, command, jitunwind, plain_environment, wait_until

pytestmark = needs_gcc
RIGHT = """
    .globl f
    .type f,@function
f:  .cfi_startproc
    push %rbx
    .cfi_adjust_cfa_offset 8
    .cfi_offset %rbx,-16
    mov %rdi,%rbx
    sub $16,%rsp
    .cfi_adjust_cfa_offset 16
    call g
    add $16,%rsp
    .cfi_adjust_cfa_offset -16
    pop %rbx
    .cfi_adjust_cfa_offset -8
    .cfi_restore %rbx
    ret
    .cfi_endproc
    .size f,.-f
g:  ret
"""
# f+0x1 is the first mov, f+0x4 sub, f+0x8 call, f+0xd add, f+0x11 pop, f+0x12 ret.
MISTAKES = {
    "adjusted too late": (
        (
            "    .cfi_adjust_cfa_offset 16\n    call g\n",
            "    call g\n    .cfi_adjust_cfa_offset 16\n",
        ),
        [("f+0x8", 1, "CFA: another offset from rsp")],
    ),
    "not adjusted": (
        (".cfi_adjust_cfa_offset -16", ""),
        [(f"f+{at:#x}", 1, "CFA: another offset from rsp") for at in (0x11, 0x12)],
    ),
    "register forgotten": (
        (".cfi_offset %rbx,-16", ""),
        [
            ("f+0x4", 1, "register: table says unchanged, recovered saved"),
            ("f+0x8", 2, "register: table says unchanged, recovered saved"),
            ("f+0x11", 1, "register: table says unchanged, recovered saved"),
        ],
    ),
    "register in another place": (
        (".cfi_offset %rbx,-16", ".cfi_offset %rbx,-24"),
        [
            ("f+0x1", 1, "register: table says saved, recovered saved elsewhere"),
            ("f+0x4", 1, "register: table says saved, recovered saved elsewhere"),
            ("f+0x8", 2, "register: table says saved, recovered saved elsewhere"),
            ("f+0x11", 1, "register: table says saved, recovered saved elsewhere"),
        ],
    ),
}


def library(path: Path, source: str = RIGHT) -> Path:
    return compiled(path, source, "-shared -nostdlib", "assembler")


@pytest.fixture
def right(tmp_path: Path) -> Path:
    return library(tmp_path / "right.so")


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    return library(tmp_path / "wrong.so", RIGHT.replace(*MISTAKES["adjusted too late"][0]))


def test_a_right_file_is_all_exact(right: Path) -> None:
    done = jitunwind("check", right)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"right\.so: .* 7 exact, 0 wrong in 0 functions", done.stdout)
    assert re.search(r"1 file, 1 FDE, \d+ instructions in \d+\.\d s, \d+ FDEs/s\n$", done.stdout)


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("kind", ["library", "object"])
def test_a_wrong_directive_is_found_at_exactly_its_instructions(
    tmp_path: Path, mistake: str, kind: str
) -> None:
    (old, new), places = MISTAKES[mistake]
    path, source = tmp_path / "a", RIGHT.replace(old, new)
    assert source != RIGHT
    made = library(path, source) if kind == "library" else compiled(path, source, "-c", "assembler")
    done = jitunwind("check", "--json", made)
    assert done.returncode == 1, done.stderr
    (file,) = json.loads(done.stdout)["files"]
    told = [(place["function"], place["instructions"], place["about"]) for place in file["places"]]
    assert told == places
    assert file["wrong_functions"] == 1
    assert sum(file["wrong"].values()) == sum(count for _, count, _ in places)


def test_text_tells_the_two_rows_and_the_instruction(wrong: Path) -> None:
    done = jitunwind("check", wrong)
    assert done.returncode == 1
    assert "1 wrong in 1 function," in done.stdout
    assert "f+0x8" in done.stdout
    assert "table:     CFA=rsp+16 ra=c-8 rbx=c-16" in done.stdout
    assert "recovered: rsp=CFA-32" in done.stdout
    assert re.search(r"=> \w+: call ", done.stdout)
    assert "table:" not in jitunwind("check", "--examples", 0, wrong).stdout


def test_json_has_what_using_md_says(right: Path, wrong: Path, tmp_path: Path) -> None:
    done = jitunwind("check", "--json", right, wrong, tmp_path / "none.so")
    data = json.loads(done.stdout)
    assert done.returncode == 2
    assert set(data) == {
        *("files", "unusable", "fdes", "instructions", "exact", "wrong", "unknown", "seconds"),
        *("fdes_per_second", "interrupted", "not_begun"),
    }
    assert [Path(file["file"]).name for file in data["files"]] == ["right.so", "wrong.so"]
    assert data["wrong"] == {"CFA: another offset from rsp": 1}
    assert data["exact"] == sum(file["exact"] for file in data["files"]) == 13
    for file in data["files"]:
        counted = (
            file["exact"] + sum(file["wrong"].values()) + sum(file["unknown"].values()) + file["padding"]
        )
        assert counted == file["instructions"]
        assert file["is_complete"]
    assert [each["file"] for each in data["unusable"]] == [str(tmp_path / "none.so")]
    (example,) = data["files"][1]["examples"]
    assert example["function"] == "f+0x8"
    assert example["instruction"].startswith("call")


def test_markdown_and_junit(right: Path, wrong: Path, tmp_path: Path) -> None:
    markdown, junit = tmp_path / "check.md", tmp_path / "check.xml"
    bad = tmp_path / "bad.so"
    bad.write_bytes(b"no")
    assert jitunwind("check", "--markdown", markdown, "--junit", junit, right, wrong, bad).returncode == 2
    assert "| wrong.so |" in markdown.read_text()
    suites = {Path(suite.get("name", "")).name: suite for suite in ElementTree.parse(junit).getroot()}
    assert [(name, s.get("tests"), s.get("failures"), s.get("errors")) for name, s in suites.items()] == [
        ("right.so", "1", "0", "0"),
        ("wrong.so", "2", "1", "0"),
        ("bad.so", "1", "0", "1"),
    ]
    failure = suites["wrong.so"].find("testcase/failure")
    assert failure is not None
    assert "f+0x8" in str(failure.get("message"))


def test_stencils(tmp_path: Path) -> None:
    path = compiled(tmp_path / "a.o", "f: push %rbp; ret\n.type f,@function\n", "-c", "assembler")
    assert jitunwind("check", path).returncode == 2
    done = jitunwind("check", "--frame-pointer-reserved", "--json", path)
    assert done.returncode == 1, done.stderr
    (file,) = json.loads(done.stdout)["files"]
    assert (file["fdes"], file["functions"], file["unknown"]) == (0, 1, {"no FDE covers this function": 2})
    assert [(place["function"], place["instruction"], place["about"]) for place in file["violations"]] == [
        ("f+0x0", "push   %rbp", "saves the frame pointer"),
        ("f+0x1", "ret", "leaves with the stack pointer 8 bytes below its place at entry"),
    ]
    text = jitunwind("check", "--frame-pointer-reserved", "--junit", tmp_path / "a.xml", path)
    assert "f+0x0: push   %rbp: saves the frame pointer" in text.stdout
    assert "f+0x1: ret: leaves with the stack pointer" in (tmp_path / "a.xml").read_text()
    nothing = compiled(tmp_path / "c.o", "nop\n", "-c", "assembler")
    done = jitunwind("check", "--frame-pointer-reserved", nothing)
    assert done.returncode == 2
    assert "has no unwind table and no function symbol" in done.stderr
    clean = compiled(tmp_path / "b.o", "f: jmp g\n.type f,@function\n", "-c", "assembler")
    done = jitunwind("check", "--frame-pointer-reserved", clean)
    assert (done.returncode, done.stderr) == (0, "")
    assert "the frame pointer is reserved" in done.stdout


def for_another_machine(tmp_path: Path, right: Path) -> Path:
    path = tmp_path / "other.so"
    content = bytearray(right.read_bytes())
    content[18:20] = (243).to_bytes(2, "little")  # EM_RISCV
    path.write_bytes(content)
    return path


def cut_short(tmp_path: Path, right: Path) -> Path:
    path = tmp_path / "short.so"
    path.write_bytes(right.read_bytes()[:-100])
    return path


def no_elf(tmp_path: Path, right: Path) -> Path:
    path = tmp_path / "text.so"
    path.write_text("INPUT(-lc)\n")
    return path


def empty(tmp_path: Path, right: Path) -> Path:
    path = tmp_path / "empty.so"
    path.touch()
    return path


def without_tables(tmp_path: Path, right: Path) -> Path:
    return compiled(tmp_path / "bare.o", "int f(int a) { return a; }", "-c -fno-asynchronous-unwind-tables")


def missing(tmp_path: Path, right: Path) -> Path:
    return tmp_path / "missing.so"


def a_folder(tmp_path: Path, right: Path) -> Path:
    return tmp_path


def malformed(tmp_path: Path, right: Path) -> Path:
    """An `.eh_frame` whose first entry is longer than the section."""
    return compiled(
        tmp_path / "malformed.o", '.section .eh_frame,"a",@progbits\n.long 0x1000, 0\n', "-c", "assembler"
    )


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (no_elf, "is not an ELF file"),
        (empty, "is not an ELF file"),
        (for_another_machine, "is for RISCV"),
        (cut_short, "cut short"),
        (without_tables, r"has no unwind table \(\.eh_frame\)"),
        (missing, "cannot be read: No such file"),
        (a_folder, "cannot be read: Is a directory"),
        (malformed, "the entry at"),
    ],
)
def test_what_cannot_be_used_is_told_and_the_others_are_checked(
    tmp_path: Path, right: Path, make: object, said: str
) -> None:
    done = jitunwind("check", make(tmp_path, right), right)  # type: ignore[operator]
    assert done.returncode == 2
    assert re.search(rf"^error: .*{said}", done.stderr, re.MULTILINE), done.stderr
    assert "Traceback" not in done.stderr
    assert "7 exact" in done.stdout


def test_an_fde_that_nobody_can_decode_is_wrong(tmp_path: Path) -> None:
    source = RIGHT + "h: .cfi_startproc\n.cfi_escape 0x3f\nret\n.cfi_endproc\n"
    done = jitunwind("check", library(tmp_path / "a.so", source))
    assert done.returncode == 1
    assert "the FDE breaks the rules of its format" in done.stdout
    assert "7 exact, 1 wrong in 1 function," in done.stdout


def test_colours_are_for_terminals(right: Path) -> None:
    assert "\x1b[" not in jitunwind("check", right).stdout
    assert "\x1b[32m" in jitunwind("check", "--color", "always", right).stdout


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that takes a while: many functions."""
    body = "if (a > {0}) out({0}); for (int i = 0; i < a; i++) s += out(i * {0}); return s + out({0});"
    functions = "".join(
        f"int f{n}(int a) {{ int s = 0; {body.replace('{0}', str(n))} }}" for n in range(1500)
    )
    return compiled(
        tmp_path_factory.mktemp("large") / "large.so", f"int out(int);{functions}", "-O1 -shared -fPIC"
    )


def test_an_interruption_ends_the_processes_and_prints_the_report_so_far(
    large: Path, right: Path, wrong: Path
) -> None:
    """GIVEN a check on a terminal, WHEN Ctrl-C comes once processes are at work, THEN there is a report."""
    ours, theirs = pty.openpty()
    environment = plain_environment() | {"TERM": "xterm"}
    arguments = command("check", "--json", "--jobs", "2", right, large, wrong)
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=theirs, env=environment, start_new_session=True
    ) as process:
        os.close(theirs)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        wait_until(lambda: len(children.read_text().split()) == 2, "two processes")
        workers = children.read_text().split()
        seen = os.read(ours, 1000)
        os.killpg(process.pid, signal.SIGINT)
        said, _ = process.communicate(timeout=PATIENCE)
    os.close(ours)
    assert process.returncode == 130
    assert b"functions" in seen
    data = json.loads(said)
    assert data["interrupted"]
    assert data["not_begun"] == [str(wrong)]
    assert [file["is_complete"] for file in data["files"]] == [True, False]
    assert data["files"][1]["exact"] > 0
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]


def test_progress_is_for_terminals_only(large: Path) -> None:
    done = jitunwind("check", large)
    assert (done.returncode, done.stderr) == (0, "")
    assert "[#" not in done.stdout


def test_a_report_that_was_interrupted_counts_what_was_judged(tmp_path: Path) -> None:
    more = "".join(f"h{n}: .cfi_startproc\nret\n.cfi_endproc\n" for n in range(2))
    program = Program(library(tmp_path / "three.so", RIGHT + more))
    result = result_of(program, {0: program.judge(0, {}, ())}, 1, 0)
    said = _text(Checked([result], is_interrupted=True))
    assert "three.so: interrupted after 1 of 3 FDEs, 7 instructions: 7 exact" in said
    assert "1 file, 1 of 3 FDEs, 7 instructions" in said


def test_code_without_a_table_is_told(tmp_path: Path) -> None:
    """GIVEN a program of which only the C library's parts have tables, THEN `0 wrong` does not stand alone."""
    source = "int f(int a) { return a * 3; } int main(void) { return f(1); }"
    path = compiled(tmp_path / "x", source, "-O0 -fno-asynchronous-unwind-tables")
    done = jitunwind("check", path)
    assert done.returncode == 0, done.stderr
    told = re.search(r"tables cover (\d+\.\d)% of \d+ bytes of code; (.*)$", done.stdout, re.MULTILINE)
    assert told is not None, done.stdout
    assert float(told[1]) < 90
    assert re.search(r"functions have none: .*\bf\b", told[2]), told[2]
    assert told[2].endswith("; that code was not checked")
    (file,) = json.loads(jitunwind("check", "--json", path).stdout)["files"]
    assert {"f", "main"} <= set(file["without_table"])
    assert file["described_bytes"] < file["code_bytes"]
    whole = compiled(tmp_path / "y", source, "-O0 -c")
    assert "tables cover 100.0% of " in jitunwind("check", whole).stdout
