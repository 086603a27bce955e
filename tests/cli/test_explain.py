"""`jitunwind explain`, run as a command, on real interpreters and cores."""

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jitunwind.jits.cpython.discovery import read_layout
from jitunwind.jits.cpython.regions import Regions
from jitunwind.memory.process import LiveProcess
from tests.support.live import REPOSITORY
from tests.support.processes import PROGRAMS, VERSIONS, Done, Program, interpreter, jitunwind, run
from tools.browser import NoBrowserError, address, page

LOOP, WAITING = str(PROGRAMS / "loop.py"), str(PROGRAMS / "waiting.py")
ESCAPE = "\x1b["
FIVE = ["rbx", "r12", "r13", "r14", "r15"]
HOSTILE = "<img src=x onerror=window.broken=1>"


@pytest.fixture(scope="module", params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def loop(version: str) -> Iterator[Program]:
    with run(version, "loop.py") as program:
        yield program.warm()


def right(done: Done) -> str:
    assert (done.returncode, unhurried(done.stderr)) == (0, ""), done.stdout + done.stderr
    return done.stdout


def unhurried(said: str) -> str:
    """Without what a slow machine is told after three seconds."""
    return "".join(line for line in said.splitlines(True) if not line.startswith("reading "))


def refused(*arguments: object) -> str:
    done = jitunwind("explain", *arguments)
    assert (done.returncode, done.stdout) == (2, ""), done.stdout
    assert "Traceback" not in done.stderr
    return done.stderr


def line_of(file: str, wanted: str) -> tuple[str, int, str]:
    lines = enumerate(Path(file).read_text().splitlines(), 1)
    return next((file, number, line) for number, line in lines if wanted in line)


@pytest.fixture(scope="module")
def data(loop: Program) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(right(jitunwind("explain", loop.pid, "--json")))
    return found


@pytest.fixture(scope="module")
def text(loop: Program) -> str:
    return right(jitunwind("explain", loop.pid, "--region", "py::f"))


def test_without_a_region_all_are_listed(loop: Program, data: dict[str, Any]) -> None:
    lines = right(jitunwind("explain", loop.pid)).splitlines()
    shown = [line.split() for line in lines if re.match(r" *\d+  0x", line)]
    assert [
        [int(number), int(start, 16), int(size.replace(",", ""))] for number, start, size, *_ in shown
    ] == [[region["number"], int(region["start"], 16), region["size"]] for region in data["regions"]]
    file, number, _ = line_of(LOOP, "total += take(fd)")
    assert any(line.endswith(f"  py::f:{file}:{number}") for line in lines), lines
    assert lines[:2] == [
        f"process {loop.pid}, {data['python']}, jitunwind {data['jitunwind']}",
        data["command"],
    ]
    assert data["command"].endswith(f" {LOOP}")
    assert "--region" in lines[-2]


def test_the_region_that_runs_is_marked(loop: Program, data: dict[str, Any]) -> None:
    """Its thread stands in read(2), which the loop's JIT code has called."""
    running = [each for each in data["regions"] if each["threads"]]
    assert [each["threads"] for each in running] == [[loop.pid]]
    assert running[0]["name"].startswith("py::f:")
    lines = right(jitunwind("explain", loop.pid)).splitlines()
    assert [line.split()[1] for line in lines if " runs " in line and "0x" in line] == [running[0]["start"]]


def test_a_region_is_chosen_by_number_address_or_name(loop: Program, data: dict[str, Any]) -> None:
    last = data["regions"][-1]
    address = int(last["start"], 16) + last["size"] - 1
    for wanted in (last["number"], hex(address)):
        found = json.loads(right(jitunwind("explain", loop.pid, "--json", "--region", wanted)))
        assert [each["start"] for each in found["regions"]] == [last["start"]]
    named = json.loads(right(jitunwind("explain", loop.pid, "--json", "--region", "loop.py")))
    assert [each["number"] for each in named["regions"]] == [
        each["number"] for each in data["regions"] if "loop.py" in each["name"]
    ]


def test_json_has_the_documented_form(data: dict[str, Any], version: str, loop: Program) -> None:
    origin = ["subject", "python", "command", "jitunwind", "host", "time"]
    assert list(data) == [*origin, "architecture", "summary", "answers", "regions", "warnings"]
    assert data["subject"] == f"process {loop.pid}"
    assert data["python"].startswith(f"CPython {version}.")
    assert data["warnings"] == []
    instructions = 0
    for region in data["regions"]:
        keys = [
            "number",
            "start",
            "size",
            "name",
            "micro_ops",
            "begin",
            "threads",
            "problem",
            "blocks",
            "jumps",
        ]
        assert list(region) == keys
        assert region["problem"] is None
        offsets = [each["offset"] for block in region["blocks"] for each in block["instructions"]]
        assert offsets == sorted(set(offsets))
        assert all(jump["from"] in offsets and jump["to"] in offsets for jump in region["jumps"])
        assert sum(block["micro_op"] is not None for block in region["blocks"]) == region["micro_ops"]
        for before, block in zip(region["blocks"], region["blocks"][1:], strict=False):
            assert before["end"] == block["start"]
        instructions += len(offsets)
    assert instructions == data["summary"]["instructions"] + data["summary"]["unreached"]
    assert data["summary"]["unknown"] == 0
    for answer in data["answers"]:
        assert list(answer) == ["row", "unknown", "differs", "silent"]


def test_micro_ops_have_the_python_lines_that_they_run(data: dict[str, Any]) -> None:
    sources = {
        (source["file"], source["line"], source["text"])
        for region in data["regions"]
        for block in region["blocks"]
        if (source := block["source"]) is not None
    }
    assert line_of(LOOP, "total += take(fd)") in sources
    assert line_of(WAITING, "byte = os.read(fd, 1)") in sources  # of the callee that is inlined


def test_where_3_15_s_own_table_differs(data: dict[str, Any], version: str) -> None:
    published = data["summary"]["tables"]["published"]
    if version == "3.14":
        assert published["compared"] == 0
        assert all(not answer["differs"] for answer in data["answers"])
        return
    everywhere = data["summary"]["instructions"]
    assert (published["compared"], published["differing"]) == (everywhere, everywhere)
    assert published["registers"] == dict.fromkeys(FIVE, everywhere)
    assert published["everywhere"]["r15"] == {"recovered": "c-24", "table": "s"}
    assert list(published["everywhere"]) == FIVE
    for answer in data["answers"]:
        if answer["row"] is None:
            continue
        assert list(answer["differs"]["published"]["registers"]) == FIVE
        assert answer["differs"]["published"]["registers"]["r15"] == {"recovered": "c-24", "table": "s"}


def test_text_shows_what_the_page_does(text: str, data: dict[str, Any], version: str) -> None:
    region = next(each for each in data["regions"] if each["name"].startswith("py::f:"))
    assert ESCAPE not in text
    for block in region["blocks"]:
        if block["micro_op"] is not None:
            assert re.search(rf"^  {block['micro_op']}\b", text, re.MULTILINE)
        for each in block["instructions"]:
            assert re.search(rf"\+{each['offset']:#x} +{re.escape(each['text'])} ", text), each
    file, number, line = line_of(LOOP, "total += take(fd)")
    assert f"{file}:{number}  {line.strip()}" in text
    assert "CFA=rsp+8 ra=c-8 rbp=s" in text
    said = "published: rbx and r12 to r15 differ at every instruction"
    assert (said in text and "rbx=s for c-56" in text) == (version == "3.15")
    assert "≠" not in text  # nothing differs besides


def test_a_narrow_terminal_gets_no_line_that_it_would_break(loop: Program, text: str) -> None:
    """And every instruction, and every path that has room in a line."""
    for width in (60, 100):
        done = jitunwind("explain", loop.pid, "--region", "py::f", environment={"COLUMNS": str(width)})
        lines = right(done).splitlines()
        assert [line for line in lines if len(line) > width] == []
        instruction = re.compile(r"^[ │├╭╰┼─▶]* (\+0x[0-9a-f]+) +\S", re.MULTILINE)
        assert instruction.findall("\n".join(lines)) == instruction.findall(text)
        assert any(re.search(r"(^|[/ ])loop\.py:\d+", line) for line in lines)


def test_jumps_in_text_lead_from_line_to_line(text: str) -> None:
    """Each arrow's head has a line that comes from above or below, which begins at a jump."""
    for line in text.splitlines():
        drawn = re.match(r"    ([ │├╭╰┼─▶]*) \+0x", line)
        if drawn and "▶" in drawn[1]:
            assert re.search(r"[├╭╰]", drawn[1]), line
        if drawn and re.search(r"[├╭╰]", drawn[1]) and "▶" not in drawn[1]:
            assert re.search(r" (j[a-z]+|call) +\+0x", line), line
    assert "▶" in text


def test_colours_are_for_terminals_and_who_asks(loop: Program) -> None:
    arguments = ("explain", loop.pid, "--region", "0")
    assert ESCAPE not in right(jitunwind(*arguments))
    assert f"{ESCAPE}36m_" in right(jitunwind(*arguments, "--color", "always"))


def test_c_functions_that_are_called_have_names(data: dict[str, Any]) -> None:
    texts = [
        each["text"]
        for region in data["regions"]
        for block in region["blocks"]
        for each in block["instructions"]
    ]
    calls = [text for text in texts if re.match(r"callq? +\*\+0x", text)]
    assert calls
    assert all(re.search(r" <_?Py\w+>$", text) for text in calls), calls


def test_a_core_says_what_its_process_says(loop: Program, data: dict[str, Any], tmp_path: Path) -> None:
    subprocess.run(["gcore", "-o", tmp_path / "core", str(loop.pid)], capture_output=True, check=False)
    core = tmp_path / f"core.{loop.pid}"
    found = json.loads(right(jitunwind("explain", core, "--json")))
    assert found["regions"] == data["regions"]
    assert found["answers"] == data["answers"]
    named = jitunwind("explain", core, "--exe", loop.process.args[0])  # type: ignore[index]
    assert "py::f:" in right(named)


def test_a_dump_has_the_machine_code_and_the_rows_of_its_process(
    loop: Program, data: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "jit.dump"
    assert jitunwind("dump", loop.pid, "-o", file).returncode == 0
    found = json.loads(right(jitunwind("explain", file, "--json")))
    assert found["subject"] == f"dump {file}"
    assert found["python"] == data["python"]
    assert found["warnings"] == []
    assert {region["problem"] for region in found["regions"]} == {"a dump has machine code, and no micro-ops"}
    assert said_of(found) == said_of(data)
    assert "py::f" in right(jitunwind("explain", file))


def said_of(data: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Each region's name, and its instructions with the rows of all tables; not the names of functions outside."""
    return [
        (
            region["name"],
            each["offset"],
            each["text"].partition(" <")[0],
            json.dumps(data["answers"][each["answer"]]),
        )
        for region in data["regions"]
        for block in region["blocks"]
        for each in block["instructions"]
        if data["answers"][each["answer"]]["row"]
    ]


def test_a_table_from_a_file_is_held_against_the_recovered_one(
    loop: Program, data: dict[str, Any], tmp_path: Path, version: str
) -> None:
    """The file says of a body's first rows what is recovered, and from some place on another depth."""
    with LiveProcess(loop.pid) as memory:
        regions = Regions(memory, read_layout(memory))
        code = next(code for start in regions.starts if (code := regions.find(start)) is not None)
    region = data["regions"][0]
    assert int(region["start"], 16) == code.start
    spans: list[tuple[int, dict[str, str]]] = []
    for block in region["blocks"]:
        for each in block["instructions"]:
            row = data["answers"][each["answer"]]["row"]
            if row and each["offset"] >= code.gate_size and (not spans or spans[-1][1] != row):
                spans.append((each["offset"], row))
    wrong = spans[5][0]
    lines = [".globl _start", "_start: .cfi_startproc"]
    for (offset, row), end in zip(spans, [*(offset for offset, _ in spans[1:]), code.size], strict=True):
        depth = int(row["CFA"].removeprefix("rsp+")) + 8 * (offset == wrong)
        lines.append(f".cfi_def_cfa_offset {depth}")
        lines.append(f".cfi_offset rbp, {row['rbp'][1:]}" if row["rbp"] != "s" else ".cfi_same_value rbp")
        lines.append(f".skip {end - offset}")
    made, linked = tmp_path / "made.o", tmp_path / "table.so"
    given = "\n".join([*lines, ".cfi_endproc", ""])
    subprocess.run(["as", "--64", "-o", made, "-"], input=given, text=True, check=True)
    places = [
        f"-Ttext={code.start + code.gate_size:#x}",
        f"--section-start=.eh_frame={code.start + (1 << 24):#x}",
    ]
    subprocess.run(["ld", *places, "-o", linked, made], check=True)

    found = json.loads(right(jitunwind("explain", loop.pid, "--json", "--region", 0, "--table", linked)))

    differing = [
        each["offset"]
        for block in found["regions"][0]["blocks"]
        for each in block["instructions"]
        if found["answers"][each["answer"]]["differs"]
    ]
    end = spans[6][0]
    assert differing == [
        each["offset"]
        for block in region["blocks"]
        for each in block["instructions"]
        if wrong <= each["offset"] < end and data["answers"][each["answer"]]["row"]
    ]
    assert found["summary"]["tables"][str(linked)]["registers"] == {"CFA": len(differing)}


def test_the_page_of_a_real_process(loop: Program, data: dict[str, Any], tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    done = jitunwind("explain", loop.pid, "-o", report)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    said = unhurried(done.stderr)
    assert re.fullmatch(rf"{re.escape(str(report))}: \d+ regions?, \d+\.\d MB, \d+\.\d s\n", said)
    try:
        with page() as browser:
            browser.resize(390, 800)
            for index, region in enumerate(data["regions"]):
                browser.open(address(report, f"region={index}"))
                assert browser.complaints == []
                assert browser.evaluate("document.documentElement.scrollWidth") <= 390
                shown = browser.evaluate(
                    "[...document.querySelectorAll('.ins .text')].map(e => e.textContent)"
                )
                texts = [each["text"] for block in region["blocks"] for each in block["instructions"]]
                assert shown == texts
                drawn = browser.evaluate("document.querySelectorAll('.jumps g').length")
                assert drawn == len(region["jumps"])
    except NoBrowserError as error:
        pytest.skip(str(error))


def test_json_goes_into_the_file_that_was_named(loop: Program, data: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    done = jitunwind("explain", loop.pid, "--json", "-o", file)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert json.loads(file.read_text())["regions"] == data["regions"]


def test_source_lines_are_those_of_the_file_that_the_process_sees(version: str, tmp_path: Path) -> None:
    """In a mount namespace another file lies over the path; and it is newer than the process."""
    here, there = tmp_path / "program.py", tmp_path / "other.py"
    path = f"import sys; sys.path.insert(0, {str(PROGRAMS)!r})\n"
    there.write_text(path + Path(LOOP).read_text())
    here.write_text(path + Path(LOOP).read_text().replace("total +=", "wrong +="))
    mount = 'mount --bind "$1" "$2" && exec "$3" "$2"'
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh"]
    with Program([*command, there, here, interpreter(version)]) as process:
        process.warm()
        found = jitunwind("explain", process.pid, "--json")
        os.utime(there, (time.time() + 3600,) * 2)
        later = jitunwind("explain", process.pid, "--region", "0")
    texts = {
        block["source"]["text"].strip()
        for region in json.loads(right(found))["regions"]
        for block in region["blocks"]
        if block["source"] is not None and block["source"]["file"] == str(here)
    }
    assert "total += take(fd)" in texts
    assert not any("wrong" in text for text in texts)
    assert f"warning: {here} is newer than the process" in later.stderr


def test_names_of_the_process_are_escaped_everywhere(version: str, tmp_path: Path) -> None:
    folder = tmp_path / "\x1b[31m"
    folder.mkdir()
    program = folder / f"{HOSTILE}.py"
    program.write_text(f"import sys; sys.path.insert(0, {str(PROGRAMS)!r})\n" + Path(LOOP).read_text())
    report = tmp_path / "report.html"
    with Program([interpreter(version), program]) as process:
        process.warm()
        listed = right(jitunwind("explain", process.pid, "--color", "never"))
        shown = right(jitunwind("explain", process.pid, "--color", "never", "--region", "0"))
        done = jitunwind("explain", process.pid, "-o", report)
        assert done.returncode == 0, done.stderr
    for said in (listed, shown):
        assert HOSTILE in said
        assert "\x1b" not in said
    assert "<img" not in report.read_text()
    assert "&lt;img src=x" in report.read_text()


def test_no_jit_code_is_said_with_the_reason(version: str) -> None:
    with run(version, "loop.py", jit="0") as program:
        program.warm(10)
        said = refused(program.pid)
    assert f"error: no JIT code is known in {program.pid}" in said
    assert "PYTHON_JIT=1" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--region", "999"], "there is no region 999"),
        (["--region", "0x10"], "there is no region 0x10"),
        (["--region", "0xyz"], "0xyz is no address"),
        (["--region", "no_such_function"], "there is no region no_such_function"),
        (["--table", "nowhere"], "neither published nor a file"),
        (["--region", ""], "--region is empty"),
        (["--region", "F"], "did you mean f"),
        (["--region", "lopo.py"], "did you mean loop.py"),
        (["--table", __file__], "test_explain.py is no ELF object"),
        (["--table", "/usr/bin"], "neither published nor a file"),
        (["--exe", "/usr/bin/true"], "--exe is for cores"),
        (["-o", "/nowhere/at/all.html"], "/nowhere/at/all.html cannot be written"),
    ],
)
def test_bad_arguments(arguments: list[str], said: str, loop: Program) -> None:
    assert said in refused(loop.pid, *arguments)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("4194304", "there is no process 4194304"),
        ("/nowhere", "neither a process number nor a file"),
        (str(REPOSITORY / "README.md"), "is no dump of JIT code"),
        ("1", ""),
    ],
)
def test_bad_targets(target: str, said: str) -> None:
    assert said in refused(target)
