"""The examples of JITs that publish their code, in plain GDB and for unwinders; and the same without publishing."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from jitunwind.agent import built
from tests.support.agent import bytecode, packages
from tests.support.live import interpreter
from tests.support.machines import HERE, MACHINES, Machine
from tests.support.processes import PATIENCE, ROOT, plain_environment
from tests.support.stub import waiting_for_gdb

EXAMPLES = ROOT / "examples"
HELD = {"x86_64": "rbx", "aarch64": "x19"}
"""The register that the code of jit.c uses."""
BEHIND_CALL = {"x86_64": 10, "aarch64": 16}
"""Where its call comes back to."""
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
    __builtin___clear_cache((char *)memory, (char *)memory + sizeof code);
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


@pytest.fixture(scope="module", params=MACHINES, ids=str)
def machine(request: pytest.FixtureRequest) -> Machine:
    found: Machine = request.param.needed()
    return found


def agent(machine: Machine) -> tuple[str, str]:
    """What makes a compiler find the agent."""
    return f"-I{built.FOLDER}", str(packages(machine) / "jitunwind/agent/agent.so")


def python(machine: Machine) -> list[str]:
    """The words that call a Python there."""
    if not machine.is_emulated:
        return [sys.executable]
    return [*machine.emulator, interpreter("3.14", machine).python]


def environment(machine: Machine = HERE) -> dict[str, str]:
    return plain_environment() | {"PYTHONPATH": str(packages(machine)), "PYTHONPYCACHEPREFIX": bytecode()}


def output(*command: object, code: int = 0, machine: Machine = HERE) -> str:
    done = subprocess.run(
        [str(each) for each in command],
        cwd=ROOT,
        env=environment(machine),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=PATIENCE,
    )
    assert done.returncode == code, done.stdout
    return done.stdout


def in_gdb(machine: Machine, commands: list[str], *command: object) -> str:
    """What plain GDB says, without anybody's settings, of a program that it has from its first instruction on."""
    program = [str(word) for word in command]
    with waiting_for_gdb(machine, program, environment(machine)) as begin:
        settings = ["set breakpoint pending on", "set debuginfod enabled off", "set width 0"]
        options = [word for each in settings for word in ("-iex", each)]
        run = [word for each in commands for word in ("-ex", each)]
        return output(machine.gdb, "-nx", "-batch", *options, *begin, *run)


def frames(said: str) -> list[str]:
    """The frames' functions, and what GDB says of them behind that."""
    return re.findall(r"^#\d+ +(?:0x\w+ in )?(.*)", said, re.MULTILINE)


@pytest.fixture(scope="module")
def program(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("examples") / "jit"
    flags = ["-g", "-std=gnu11", "-Wall", "-Wextra", "-Werror"]
    command = [machine.compiler(), *flags, "-o", path, EXAMPLES / "jit.c", *agent(machine), *machine.linking]
    subprocess.run(command, check=True)
    return path


@pytest.mark.live
@pytest.mark.one_version("what a program publishes of its own code does not depend on the version")
class TestPython:
    @pytest.mark.slow
    def test_values(self, machine: Machine) -> None:
        example = [*python(machine), EXAMPLES / "jit.py"]
        assert output(*example, "3 * (x - 1) + x", 14, machine=machine) == "53\n"
        assert (
            output(*example, "x * x - 2 * (x + x * 3) + 123456789012", -7, machine=machine)
            == "123456789117\n"
        )
        refused = output(*example, "x / 2", code=1, machine=machine)
        assert "SyntaxError: x / 2: there are x" in refused

    def test_plain_gdb_goes_through_it(self, machine: Machine) -> None:
        """GIVEN a function in C that JIT code has called, THEN plain GDB's stack has the JIT's function by its name,
        the code by its symbol, and below it all frames down to the program's start."""
        *_, interpreter = python(machine)
        up = ["frame function raise", "up", "info symbol $pc"]
        commands = ["continue", "bt", *up, "finish", "continue"]
        said = in_gdb(machine, commands, interpreter, EXAMPLES / "jit.py", SOURCE, 14)
        names = frames(said)
        at = names.index(f"jit:{SOURCE} ()")
        assert "raise" in names[at - 1]
        assert "libffi" in names[at + 1]
        assert any(name.startswith(("_start", "main ")) for name in names[at + 2 :]), said
        assert f"jit:{SOURCE} + " in said, "info symbol"
        assert "exited normally" in said, "and it goes on"
        assert machine.is_emulated or "\n53\n" in said

    def test_and_does_not_without_publishing(self, tmp_path: Path) -> None:
        program = tmp_path / "unpublished.py"
        program.write_text(UNPUBLISHED)
        said = in_gdb(HERE, ["continue", "bt 40"], sys.executable, program, SOURCE, 14)
        assert "SIGTRAP" in said
        assert "jit:" not in said
        assert not any("libffi" in frame for frame in frames(said)), said


class TestC:
    def test_backtrace_goes_through_it(self, machine: Machine, program: Path) -> None:
        lines = output(*machine.emulator, program).splitlines()
        assert not lines[1].startswith(str(program)), "the code is in no file"
        assert [line.split("(")[0] for line in (lines[0], lines[2], lines[-1])] == [str(program)] * 3
        assert "libc.so.6(__libc_start_main" in "".join(lines)

    def test_plain_gdb_goes_through_it(self, machine: Machine, program: Path) -> None:
        held = f"p/x ${HELD[machine.arch.name]}"
        commands = ["break stop_here", "continue", "bt", "up", "info symbol $pc", held, "up", held, "delete"]
        said = in_gdb(machine, [*commands, "continue"], program)
        functions = [frame.split(" (")[0] for frame in frames(said)]
        assert functions[:3] == ["stop_here", "my_language::f", "main"], said
        assert "my_language::f () at /tmp/f.my_language:2" in said
        assert f"my_language::f + {BEHIND_CALL[machine.arch.name]} in section .text" in said
        values = [line.split(" = ")[1] for line in said.splitlines() if line.startswith("$")]
        assert len(set(values)) == 2, "each frame has a value of its own in that register"
        assert "exited normally" in said

    @pytest.mark.parametrize("published", [True, False])
    def test_exceptions_pass_through_its_code(
        self, machine: Machine, tmp_path: Path, published: bool
    ) -> None:
        """GIVEN code that calls what throws, THEN the exception is caught above it; unpublished, it is nobody's."""
        (tmp_path / "throwing.cc").write_text(THROWING)
        flags = ["-w", f"-I{EXAMPLES}", "-fpermissive", "-o", tmp_path / "throwing"]
        command = [
            machine.compiler("g++"),
            *flags,
            tmp_path / "throwing.cc",
            *agent(machine),
            *machine.linking,
        ]
        subprocess.run(command, check=True)
        arguments = [] if published else ["unpublished"]
        said = output(*machine.emulator, tmp_path / "throwing", *arguments, code=0 if published else 3)
        assert said == ("destroyed\ncaught 5\n" if published else "terminated\n")
