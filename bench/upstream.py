"""CPython's own tests of unwinding through JIT code: plain, with GDB's plugin, and published from inside.

    python bench/upstream.py [--into docs/upstream.md] [--gdb GDB]

`test_gdb/test_jit.py` and `test_c_stack_unwind.py` of CPython 3.15, as Debian has them. GDB is
a script on PATH that starts the real one: with CPython's debug symbols, with the plugin where that is asked for, and
without Python's option -S, which would keep publishing from being switched on. Where a test fails by the name of a
frame, it runs once more with jitunwind's names in the places of its own: then all else must be as it asks for. The exit
status is 1 if a test that passes plain still fails then.
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from support import ENABLE, ROOT, put_into
from testsuite import copy, paths, publishing

VERSION = "3.15"
FOLDER = ROOT / "build" / "upstream"
MODULES = ("test.test_gdb.test_jit", "test.test_c_stack_unwind")
PLAIN, PLUGIN, PUBLISHED = WAYS = ("plain", "plugin", "published")
SECONDS = 900
RUN = """
import importlib, importlib.util, json, re, sys, sysconfig, unittest
from test import support

name, sample, names = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
sysconfig.is_python_build = lambda *_, **__: True  # test_gdb runs for builds in their folders only,
support.check_cflags_pgo = lambda: False  # and for none by PGO: not what these two files need
importlib.import_module(name.rpartition(".")[0])
spec = importlib.util.find_spec(name)
with open(spec.origin) as file:
    source = file.read()
for theirs, ours in names.items():
    source = source.replace(repr(theirs).replace("'", '"'), repr(ours))
module = importlib.util.module_from_spec(spec)
sys.modules[name] = module
exec(compile(source, spec.origin, "exec"), module.__dict__)
if hasattr(module, "JIT_SAMPLE_SCRIPT"):
    module.JIT_SAMPLE_SCRIPT = sample
if names:
    tests = module.JitBacktraceTests
    extracted = tests._extract_backtrace_frames
    tests._extract_backtrace_frames = lambda self, said: [
        frame for frame in extracted(self, said) if "_PyJIT_Entry" not in frame
    ]
result = unittest.TestResult()
suite = unittest.defaultTestLoader.loadTestsFromModule(module)
tests = [test for group in suite for test in group]
suite.run(result)
told = {test.id().rpartition(".")[2]: ["passed", ""] for test in tests}
for test, reason in result.skipped:
    for each in [test] if hasattr(test, "_testMethodName") else tests:
        told[each.id().rpartition(".")[2]] = ["skipped", reason]
for test, text in result.failures + result.errors:
    told[getattr(test, "test_case", test).id().rpartition(".")[2]] = ["failed", text]
with open(sys.argv[4], "w") as file:
    json.dump(told, file)
"""
"""One module's tests, and what comes out of each."""


@dataclass(frozen=True)
class Outcome:
    """Of one test: what came out as it stands, and with our names and without the shim's frame."""

    plain: str
    named: str
    reason: str

    def __str__(self) -> str:
        return self.plain if self.plain == self.named else f"{self.named} with our names"


def debug_symbols() -> tuple[Path, Path]:
    """The interpreter that has CPython's tests, and the folder of its debug symbols."""
    tool = [
        sys.executable,
        ROOT / "tools/interpreters.py",
        VERSION,
        "--json",
        "--testsuite",
        "--debug-symbols",
    ]
    answer = json.loads(
        subprocess.run(tool, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    )
    return Path(answer["python"]), Path(answer["debug_file_directory"])


def gdb_script(place: Path, gdb: str, symbols: Path, way: str) -> None:
    """A `gdb` in `place` that starts `gdb` in that way."""
    place.mkdir(parents=True)
    options = ["-iex", f"set debug-file-directory {symbols}", "-iex", "unset environment PYTHONHOME"]
    if way == PLUGIN:
        load = ROOT / "src/jitunwind/gdbplugin/load.py"
        search = [str(ROOT / "src"), sysconfig.get_path("platlib")]
        options += ["-iex", f"python import runpy; runpy.run_path({str(load)!r}, {{'SEARCH': {search!r}}})"]
    script = place / "gdb"
    script.write_text(
        f"#!{sys.executable}\nimport os, sys\ngiven = sys.argv[1:]\n"
        "if '--args' in given and '-S' in given:\n    given.remove('-S')\n"
        f"os.execv({gdb!r}, [{gdb!r}, *given[:2], *{options!r}, *given[2:]])\n"
    )
    script.chmod(0o755)


def sample(python: Path, place: Path) -> Path:
    """The program of test_jit, which has its code published before it is looked at, where it is published at all."""
    text = (Path(paths(python)["stdlib"]) / "test/test_gdb/gdb_jit_sample.py").read_text()
    flushed = "if 'jitunwind' in sys.modules:\n    assert sys.modules['jitunwind'].flush(60) == 0\n"
    before, last, after = text.rpartition("jit_bt_hot(1)")
    path = place / "gdb_jit_sample.py"
    path.write_text(
        f"import sys\n{before}{flushed}{last}{after}"
    )  # a new global name later would drop the code
    return path


def run(python: Path, module: str, program: Path, names: dict[str, str], gdb: Path) -> dict[str, list[str]]:
    """What came out of each test of a module, and why."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment = {**kept, "PYTHON_JIT": "1", "PATH": f"{gdb}{os.pathsep}{os.environ['PATH']}"}
    told = gdb / "told.json"
    command = [python, "-c", RUN, module, str(program), json.dumps(names), told]
    with (gdb / "log").open("ab") as log:
        subprocess.run(command, env=environment, check=True, stdout=log, stderr=log, timeout=SECONDS, cwd=gdb)
    answer: dict[str, list[str]] = json.loads(told.read_text())
    return answer


def outcomes(python: Path, module: str, program: Path, gdb: Path) -> dict[str, Outcome]:
    plain = run(python, module, program, {}, gdb)
    names = {"py::jit:executor": f"py::jit_bt_hot:{program}"}
    named = (
        run(python, module, program, names, gdb) if any(o == "failed" for o, _ in plain.values()) else plain
    )
    return {
        test: Outcome(outcome, named[test][0] if outcome == "failed" else outcome, named[test][1])
        for test, (outcome, _) in plain.items()
    }


def table(found: dict[str, dict[str, dict[str, Outcome]]], title: str) -> str:
    """By way, module and test, as Markdown."""
    lines = [title, "", f"| test | {' | '.join(WAYS)} |", f"| --- |{' --- |' * len(WAYS)}"]
    for module in MODULES:
        for test in found[PLAIN][module]:
            cells = " | ".join(str(found[way][module][test]) for way in WAYS)
            lines.append(f"| `{module.removeprefix('test.')}`: `{test}` | {cells} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--into", type=Path, help="a page, to put the table in")
    parser.add_argument("--gdb", default=shutil.which("gdb"), help="the GDB that the tests are given")
    arguments = parser.parse_args()
    shutil.rmtree(FOLDER, ignore_errors=True)
    original, symbols = debug_symbols()
    pythons = {way: copy(original, FOLDER / way) for way in WAYS}
    publishing(pythons[PUBLISHED], ENABLE)
    found: dict[str, dict[str, dict[str, Outcome]]] = {}
    for way, python in pythons.items():
        place = FOLDER / f"gdb-{way}"
        gdb_script(place, arguments.gdb, symbols, way)
        program = sample(python, place)
        found[way] = {module: outcomes(python, module, program, place) for module in MODULES}
    said = subprocess.run([arguments.gdb, "--version"], capture_output=True, text=True, check=True).stdout
    version = subprocess.run([original, "-V"], capture_output=True, text=True, check=True).stdout.split()[1]
    gdb = re.search(r"\d+\.\d+", said.splitlines()[0].rpartition(" ")[2])
    title = (
        f"CPython {version}, GDB {gdb[0] if gdb else said}, {platform.machine()}; generated on "
        f"{datetime.now(UTC):%Y-%m-%d} by `make upstream`."
    )
    text = table(found, title)
    print(text)
    wrong = [
        (way, test, outcome)
        for way in WAYS
        for module in MODULES
        for test, outcome in found[way][module].items()
        if found[PLAIN][module][test].plain != outcome.named
    ]
    for each in {outcome.reason for way in WAYS for of in found[way].values() for outcome in of.values()} - {
        ""
    }:
        print(each, file=sys.stderr)
    if arguments.into:
        put_into(arguments.into, text)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
