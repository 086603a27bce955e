"""The examples of JITs that publish their code, in plain GDB and for unwinders; and the same without publishing."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from jitunwind.agent import built
from tests.support.compiled import needs_gcc
from tests.support.processes import PATIENCE, ROOT, plain_environment

pytestmark = needs_gcc

EXAMPLES = ROOT / "examples"
AGENT = (f"-I{built.FOLDER}", built.AGENT)
SOURCE = "3 * (stop - 1) + x"
UNPUBLISHED = """
import contextlib, runpy, sys
import jitunwind
jitunwind.publish = lambda region: contextlib.nullcontext()
sys.argv[0] = "examples/jit.py"
runpy.run_path(sys.argv[0], run_name="__main__")
"""
THROWING = """
#define main example
#include "jit.c"
#undef main
#include <exception>

struct counted {
    ~counted() { puts("destroyed"); }
};

int main(int count, char **)
{
    void *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(memory, code, sizeof code);
    mprotect(memory, 4096, PROT_READ | PROT_EXEC);
    jitunwind_region region = {};
    region.start = (uintptr_t)memory;
    region.size = sizeof code;
    region.name = "f";
    region.rows = rows;
    region.row_count = sizeof rows / sizeof *rows;
    jitunwind_publication *publication = nullptr;
    if (count == 1 && jitunwind_publish(&region, 1, JITUNWIND_LIBGCC, &publication))
        return 2;
    void (*function)(void (*)(void));
    memcpy(&function, &memory, sizeof function);
    std::set_terminate([] { puts("terminated"); fflush(stdout); _exit(3); });
    try {
        counted here;
        function([] { throw 5; });
    } catch (int number) {
        printf("caught %d\\n", number);
    }
    jitunwind_withdraw(&publication, 1);
    return 0;
}
"""


def output(*command: object, code: int = 0) -> str:
    done = subprocess.run(
        [str(each) for each in command],
        cwd=ROOT,
        env=plain_environment() | {"PYTHONPATH": str(ROOT / "src"), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=PATIENCE,
    )
    assert done.returncode == code, done.stdout
    return done.stdout


def in_gdb(commands: list[str], *command: object) -> str:
    """What plain GDB says, without anybody's settings."""
    options = ["-nx", "-batch", "-ex", "set debuginfod enabled off", "-ex", "set width 0"]
    for each in commands:
        options += ["-ex", each]
    return output("gdb", *options, "--args", *command)


def frames(said: str) -> list[str]:
    """The frames' functions, and what GDB says of them behind that."""
    return re.findall(r"^#\d+ +(?:0x\w+ in )?(.*)", said, re.MULTILINE)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("examples") / "jit"
    flags = ["-g", "-std=gnu11", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["gcc", *flags, "-o", path, EXAMPLES / "jit.c", *AGENT], check=True)
    return path


class TestPython:
    def test_values(self) -> None:
        assert output(sys.executable, EXAMPLES / "jit.py", "3 * (x - 1) + x", 14) == "53\n"
        assert output(sys.executable, EXAMPLES / "jit.py", "x * x - 2 * (x + x * 3)", -7) == "105\n"
        refused = output(sys.executable, EXAMPLES / "jit.py", "x / 2", code=1)
        assert "SyntaxError: x / 2: there are x" in refused

    def test_plain_gdb_goes_through_it(self) -> None:
        """GIVEN a function in C that JIT code has called, THEN plain GDB's stack has the JIT's function by its name,
        the code by its symbol, and below it all frames down to the program's start."""
        commands = ["run", "bt", "up 3", "info symbol $pc", "finish", "continue"]
        said = in_gdb(commands, sys.executable, EXAMPLES / "jit.py", SOURCE, 14)
        names = frames(said)
        at = names.index(f"jit:{SOURCE} ()")
        assert "raise" in names[at - 1]
        assert "libffi" in names[at + 1]
        assert any(name.startswith(("_start", "main ")) for name in names[at + 2 :]), said
        assert f"jit:{SOURCE} + " in said, "info symbol"
        assert "\n53\n" in said, "and it goes on"

    def test_and_does_not_without_publishing(self) -> None:
        said = in_gdb(["run", "bt 40"], sys.executable, "-c", UNPUBLISHED, SOURCE, 14)
        assert "SIGTRAP" in said
        assert "jit:" not in said
        assert not any("libffi" in frame for frame in frames(said)), said


class TestC:
    def test_backtrace_goes_through_it(self, program: Path) -> None:
        lines = output(program).splitlines()
        assert not lines[1].startswith(str(program)), "the code is in no file"
        assert [line.split("(")[0] for line in (lines[0], lines[2], lines[-1])] == [str(program)] * 3
        assert "libc.so.6(__libc_start_main" in "".join(lines)

    def test_plain_gdb_goes_through_it(self, program: Path) -> None:
        commands = [
            "break stop_here",
            "run",
            "bt",
            "up",
            "info symbol $pc",
            "p/x $rbx",
            "up",
            "p/x $rbx",
            "delete",
        ]
        said = in_gdb([*commands, "continue"], program)
        functions = [frame.split(" (")[0] for frame in frames(said)]
        assert functions[:3] == ["stop_here", "my_language::f", "main"], said
        assert "my_language::f + 10 in section .text" in said
        values = [line.split(" = ")[1] for line in said.splitlines() if line.startswith("$")]
        assert len(set(values)) == 2, "each frame has an rbx of its own"
        assert "exited normally" in said

    @pytest.mark.parametrize("published", [True, False])
    def test_exceptions_pass_through_its_code(self, tmp_path: Path, published: bool) -> None:
        """GIVEN code that calls what throws, THEN the exception is caught above it; unpublished, it is nobody's."""
        (tmp_path / "throwing.cc").write_text(THROWING)
        flags = ["-w", f"-I{EXAMPLES}", "-fpermissive", "-o", tmp_path / "throwing"]
        subprocess.run(["g++", *flags, tmp_path / "throwing.cc", *AGENT], check=True)
        arguments = [] if published else ["unpublished"]
        said = output(tmp_path / "throwing", *arguments, code=0 if published else 3)
        assert said == ("destroyed\ncaught 5\n" if published else "terminated\n")
