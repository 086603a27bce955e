"""`jitunwind gdb`: the plugin in GDB as people use it, in the machine's GDB and in the newest from PyPI."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jitunwind.gdbplugin.launch import attached_to
from tests.support.live import newest_gdb
from tests.support.processes import (
    PATIENCE,
    PROGRAMS,
    ROOT,
    SHIMS,
    Done,
    Program,
    command,
    interpreter,
    jitunwind,
    plain_environment,
    run,
)

LOOP, WAITING = str(PROGRAMS / "loop.py"), str(PROGRAMS / "waiting.py")
READ = next(n for n, line in enumerate(Path(WAITING).read_text().splitlines(), 1) if "os.read" in line)
NAMED = rf"py::f:{re.escape(LOOP)} \(\) at {re.escape(WAITING)}:{READ}$"
"""How GDB prints the JIT frame of loop.py."""
SYSTEM = shutil.which("gdb")

pytestmark = pytest.mark.skipif(SYSTEM is None, reason="no gdb")


@pytest.fixture(scope="module", params=["3.14-system", "3.14-newest", "3.15-system", "3.15-newest"])
def pair(request: pytest.FixtureRequest) -> tuple[str, str]:
    """A version of CPython, and a GDB."""
    version, _, gdb = request.param.partition("-")
    return version, newest_gdb() if gdb == "newest" else str(SYSTEM)


@pytest.fixture(scope="module")
def version(pair: tuple[str, str]) -> str:
    return pair[0]


@pytest.fixture(scope="module")
def gdb_path(pair: tuple[str, str]) -> str:
    return pair[1]


@pytest.fixture(scope="module")
def loop(version: str) -> Iterator[Program]:
    with run(version, "loop.py") as program:
        yield program.warm()


def script(*commands: str) -> list[str]:
    """`-ex` for each, and a line that says which one follows."""
    return [part for line in commands for part in ("-ex", f"echo \\n<{line}>\\n", "-ex", line)]


def answers(done: Done) -> dict[str, str]:
    """What each command of `script` printed."""
    assert done.returncode == 0, done.stdout + done.stderr
    parts = re.split(r"^<(.*)>$", done.stdout, flags=re.MULTILINE)
    return {line: text.strip() for line, text in zip(parts[1::2], parts[2::2], strict=True)}


def assert_named(backtrace: str) -> None:
    """Names and lines of the JIT frame and its shim, and no frame without a name between it and _start."""
    assert re.search(rf"^#\d+ +(0x[0-9a-f]+ in )?{NAMED}", backtrace, re.MULTILINE), backtrace
    shims = re.findall(rf"in (?:{'|'.join(SHIMS.values())}) \(\)", backtrace)
    assert len(shims) == 1, backtrace
    assert re.search(r"in _start \(\)$", backtrace, re.MULTILINE), backtrace


# --- what its own commands and GDB's say


@pytest.fixture(scope="module")
def said(loop: Program, gdb_path: str) -> dict[str, str]:
    commands = [
        *["bt", "info jit-regions", "info jit-regions --json", "bt -1", "bt 99"],
        "python f = gdb.newest_frame()",
        "python\nwhile not (f.name() or '').startswith('py::f:'): f = f.older()",
        "python f.select()",
        *[
            "frame",
            "jit-rows",
            "jit-rows --all",
            "jit-rows xyz",
            "info symbol $pc",
            "x/i $pc",
            "info line *$pc",
            "info frame",
        ],
        *["info registers rip rbx r12", "up", "info registers rip rsp rbp", "down", "up 2", "info frame"],
    ]
    commands[6] = "python exec('while not (f.name() or str()).startswith(\"py::f:\"): f = f.older()')"
    done = jitunwind("gdb", "--gdb", gdb_path, "-nx", "-batch", "-p", loop.pid, *script(*commands))
    assert loop.goes_on()
    assert "Traceback" not in done.stderr
    return answers(done) | {"stderr": done.stderr}


def test_bt_is_whole_and_named(said: dict[str, str]) -> None:
    assert_named(said["bt"])
    assert "_start" in said["bt -1"]


def test_the_selected_jit_frame(said: dict[str, str]) -> None:
    assert re.search(rf"^#\d+ +0x[0-9a-f]+ in {NAMED}", said["frame"], re.MULTILINE)
    assert "os.read(fd, 1)" in said["frame"]


def test_info_jit_regions(said: dict[str, str]) -> None:
    header, *rows = said["info jit-regions"].splitlines()
    assert header.split() == ["Start", "Size", "Executor", "Name"]
    listed = json.loads(said["info jit-regions --json"])
    assert [row.split(None, 3) for row in rows] == [
        [f"{int(part['start'], 16):#018x}", str(part["size"]), part["executor"] or "-", part["name"]]
        for part in listed
    ]
    for part in listed:
        assert list(part) == ["start", "size", "kind", "name", "executor"]
        assert part["kind"] in ("jit", "shim")
    assert f"py::f:{LOOP}" in [part["name"] for part in listed]


def test_jit_rows(said: dict[str, str]) -> None:
    rows = said["jit-rows"]
    assert rows.startswith(f"py::f:{LOOP}: ")
    assert re.search(r"^CFA=rsp\+\d+ ra=c-\d+ rbx=", rows, re.MULTILINE), rows
    assert "(ra=c-8: the return address is saved at CFA-8)" in rows
    assert re.search(r"^=> 0x[0-9a-f]+ <\+\d+>:\t", rows, re.MULTILINE), rows
    assert len(re.findall(r"^(?:=>|  ) 0x[0-9a-f]+ <", rows, re.MULTILINE)) == 10, rows
    assert rows.endswith("(jit-rows --all shows the rows of the whole region)")
    everything = said["jit-rows --all"]
    around = [line for line in rows.splitlines() if "\t" in line]
    assert "\n".join(around) in "\n".join(line for line in everything.splitlines() if "\t" in line)
    assert everything.count("\t") > 10
    assert 'xyz is no address: No symbol "xyz" in current context. Try ' in said["stderr"]


def test_gdb_gives_no_advice_about_a_thread_library_that_it_cannot_load(said: dict[str, str]) -> None:
    """Two lines at most: an empty one, and that there is none that matches."""
    complaints = [line for line in said["stderr"].splitlines() if "thread_db" in line or "auto-load" in line]
    assert all("Unable to find libthread_db matching" in line for line in complaints), said["stderr"]
    assert len(complaints) <= 1


def test_commands_without_a_process_say_so(gdb_path: str) -> None:
    commands = ["info jit-regions", "jit-rows xyz", "echo end\n"]
    done = jitunwind("gdb", "--gdb", gdb_path, "-nx", "-batch", *script(*commands))
    assert (
        done.stderr.splitlines()
        == ["There is no process: run a program, attach to a process or open a core first."] * 2
    )


def test_symbol_instruction_and_line_of_the_program_counter(said: dict[str, str]) -> None:
    name = re.escape(f"py::f:{LOOP}")
    # on 3.15, GDB knows another name besides, which CPython itself publishes
    assert re.search(rf"^{name} +\+ \d+ in section \.text", said["info symbol $pc"], re.MULTILINE)
    assert re.search(rf"^=> 0x[0-9a-f]+ <{name}\+\d+>:\t\w+", said["x/i $pc"], re.MULTILINE)
    assert re.search(rf'^Line {READ} of "{re.escape(WAITING)}" ', said["info line *$pc"], re.MULTILINE)


def test_up_and_down(said: dict[str, str], version: str) -> None:
    assert SHIMS[version] in said["up"]
    assert "py::f:" in said["down"]
    assert re.search(r"^#\d+ +0x[0-9a-f]+ in ", said["up 2"], re.MULTILINE)


def test_registers_of_outer_frames(said: dict[str, str], version: str) -> None:
    in_jit, in_shim = said["info registers rip rbx r12"], said["info registers rip rsp rbp"]
    assert f"<py::f:{LOOP}+" in in_jit
    assert f"<{SHIMS[version]}+" in in_shim
    assert "<not saved>" not in in_shim
    assert re.search(r"Saved registers:\n.*rip at 0x", said["info frame"])


# --- arguments


def test_every_argument_is_handed_on_as_it_is(tmp_path: Path) -> None:
    shown = tmp_path / "shown"
    gdb = tmp_path / "gdb"
    lines = [
        "#!/bin/sh",
        'case "$*" in *"show version"*) echo "GNU gdb (GDB) 15.1"; echo "python 3 11"; exit;; esac',
        f'for argument; do echo "$argument" >> {shown}; done',
        "exit 7",
    ]
    gdb.write_text("\n".join(lines) + "\n")
    gdb.chmod(0o755)
    arguments = [
        "-batch",
        "-ex",
        "p 1",
        "-x",
        "a b",
        "--version",
        "-h",
        "--args",
        "python",
        "--help",
        "--gdb",
        "x",
    ]

    folders = [str(tmp_path), str(tmp_path.parent)]
    named = {"JITUNWIND_DEBUG_DIR": ":".join(folders)}
    done = jitunwind("gdb", "--gdb", gdb, *arguments, environment=named)

    assert done.returncode == 7
    iex, line, *rest = shown.read_text().splitlines()
    assert iex == "-iex"
    assert rest[-len(arguments) :] == arguments
    known = re.compile("-iex|(un)?set environment PYTHON.*|python .*set debug-file-directory.*")
    assert all(known.fullmatch(word) for word in rest[: -len(arguments)])
    assert sum(f"[*{folders!r}"[:-1] in word for word in rest) == 1  # where to look for debug files first
    assert line == jitunwind("gdb", "--print-init").stdout.strip()


@pytest.mark.parametrize(
    ("arguments", "processes"),
    [
        (["-batch", "-p", "12", "-ex", "bt"], [12]),
        (["--pid=12"], [12]),
        (["-pid", "12"], [12]),
        (["python", "12"], [12]),
        (["-ex", "attach 12", "--eval-command=att  34", "-ex", "bt 56"], [12, 34]),
        (["-ex", "attach 12", "-p", "12"], [12]),
        (["-b", "9600", "-l", "5", "-ex", "print 7", "core.12"], []),
        (["--args", "python", "12"], []),
        (["-p", "१२"], []),
    ],
    ids=str,
)
def test_the_processes_that_arguments_attach_to(arguments: list[str], processes: list[int]) -> None:
    assert attached_to(arguments) == processes


def test_help_is_jitunwinds_own_and_gdbs_behind_two_dashes() -> None:
    own = jitunwind("gdb", "--help")
    assert own.stdout.startswith("Usage: jitunwind gdb ")
    assert jitunwind("gdb", "-h").stdout == own.stdout
    theirs = jitunwind("gdb", "--", "--help")
    assert "--args" in theirs.stdout
    assert jitunwind("gdb", "--version").stdout.startswith("GNU gdb ")


def test_a_script_file(loop: Program, gdb_path: str, tmp_path: Path) -> None:
    file = tmp_path / "look.py"
    file.write_text(
        "import gdb\nprint('seen', gdb.selected_inferior().pid, gdb.execute('bt', to_string=True))\n"
    )

    done = jitunwind("gdb", "--gdb", gdb_path, "-nx", "-batch", "-p", loop.pid, "-x", file)

    assert done.returncode == 0
    assert_named(done.stdout.partition(f"seen {loop.pid}")[2].strip())
    assert loop.goes_on()


@pytest.mark.live
@pytest.mark.one_version("arguments are handed on in the same way to each")
def test_a_program_and_its_arguments() -> None:
    python = interpreter("3.14")
    arguments = ["--args", python, "-c", "import sys; print(sys.argv)", "-batch", "--help"]

    done = jitunwind("gdb", "-nx", "-batch", "-ex", "run", *arguments)

    assert "['-c', '-batch', '--help']" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("said", ["GNU gdb (GDB) 12.1", "GNU gdb (GDB) 15.1"])
def test_a_gdb_that_does_not_do(said: str, tmp_path: Path) -> None:
    gdb = tmp_path / "gdb"
    gdb.write_text(f'#!/bin/sh\necho "{said}"\n')
    gdb.chmod(0o755)

    done = jitunwind("gdb", "--gdb", gdb)

    assert (done.returncode, done.stdout) == (2, "")
    assert re.match(r"error: .* is GDB 12\.1; 13 or later|error: .* has no Python", done.stderr)


# --- loading it


def gdb(*arguments: object, path: str | None = None, **options: object) -> Done:
    """GDB itself, without jitunwind's command around it."""
    return subprocess.run(
        [path or str(SYSTEM), "-batch", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env=plain_environment(),
        **options,  # type: ignore[call-overload]
    )


def test_the_line_for_gdbinit(loop: Program, gdb_path: str, tmp_path: Path) -> None:
    line = jitunwind("gdb", "--print-init").stdout
    assert line.count("\n") == 1
    init = tmp_path / "gdbinit"
    init.write_text(f"set confirm off\n{line}set pagination off\n")

    by_option = gdb("-nx", "-iex", line.strip(), "-p", loop.pid, *script("bt"), path=gdb_path)
    by_file = gdb("-nx", "-ix", init, "-p", loop.pid, *script("bt"), path=gdb_path)

    assert_named(answers(by_option)["bt"])
    assert_named(answers(by_file)["bt"])
    assert loop.goes_on()


def test_a_users_own_gdbinit_and_hook_stop(loop: Program, gdb_path: str, tmp_path: Path) -> None:
    (tmp_path / ".gdbinit").write_text("define hook-stop\necho MINE\\n\nend\n")
    late = 'python gdb.execute("define hook-stop\\necho MINE\\\\n\\nend")'
    environment = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    stop = ["tbreak read", "continue", "bt"]
    line = jitunwind("gdb", "--print-init").stdout.strip()
    for before in (["-ex", line], ["-iex", line, "-ex", late], ["-iex", line]):
        # the hook is defined before the plugin is loaded; after; in ~/.gdbinit, which is read after -iex
        process = subprocess.Popen(
            [gdb_path, "-batch", *before, "-p", str(loop.pid), *script(*stop)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=plain_environment() | environment,
        )
        assert process.stdout is not None
        shown = ""
        for text in process.stdout:
            shown += text
            if text == "<continue>\n":
                loop.send(b"w")
        assert process.wait() == 0
        assert "MINE" in shown.partition("<continue>")[2], shown
        assert_named(shown.partition("<bt>")[2].strip())
    assert loop.goes_on()


def test_loading_it_twice_is_harmless(loop: Program, gdb_path: str) -> None:
    line = jitunwind("gdb", "--print-init").stdout.strip()
    look = script("bt", "show user hook-stop", "info unwinder")
    once = gdb("-nx", "-iex", line, "-p", loop.pid, *look, path=gdb_path)
    twice = gdb("-nx", "-iex", line, "-iex", line, "-p", loop.pid, "-ex", line, *look, path=gdb_path)
    assert answers(twice) == answers(once)
    assert twice.stderr == once.stderr


PATHS = (
    "import sys, jitunwind, json; "
    "files = {n: getattr(m, '__file__', None) for n, m in sorted(sys.modules.items())}; "
    "names = ('jitunwind', 'iced_x86', 'click', 'rich'); "
    "print('PATHS', json.dumps([sys.path, [f for n, f in files.items() if f and n.split('.')[0] in names]]))"
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy installed as people install it, with what pip puts beside it."""
    folder = tmp_path_factory.mktemp("installed")
    source = tmp_path_factory.mktemp("source") / "jitunwind"
    ignored = shutil.ignore_patterns("*.egg-info", "__pycache__", "build")
    source.mkdir()
    shutil.copytree(ROOT / "src", source / "src", ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, source]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"pip cannot build it here: {done.stderr.strip()[-300:]}")
    return folder


def test_an_installed_copy(installed: Path, loop: Program, gdb_path: str) -> None:
    environment = plain_environment() | {"PYTHONPATH": str(installed)}
    printed = subprocess.run(
        command("gdb", "--print-init"),
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        cwd=installed,
    )
    line = printed.stdout.strip()
    assert str(installed) in line

    done = gdb("-nx", "-iex", line, "-p", loop.pid, *script(f"python {PATHS}", "bt"), path=gdb_path)
    plain = gdb("-nx", "-ex", "python import sys; print(sys.path)", path=gdb_path)

    said = answers(done)
    path, modules = json.loads(said[f"python {PATHS}"].partition("PATHS ")[2])
    assert str(path) == plain.stdout.strip(), "GDB's sys.path has changed"
    ours = [module for module in modules if "/jitunwind/" in module]
    assert ours
    assert all(module.startswith(f"{installed}/") for module in ours), ours
    assert not [module for module in modules if "/click/" in module or "/rich/" in module]
    assert_named(said["bt"])


def test_the_users_packages_are_not_importable_in_gdb() -> None:
    names = ("click", "rich", "elftools")
    ask = f"import importlib.util as u; print('FOUND', [n for n in {names} if u.find_spec(n)])"
    plain = gdb("-nx", "-ex", f"python {ask}")
    ours = jitunwind("gdb", "-nx", "-batch", "-ex", f"python {ask}")
    assert "FOUND" in ours.stdout
    assert ours.stdout == plain.stdout


# --- programs that GDB starts


RARE = str(PROGRAMS / "rare.py")


def started(version: str, *commands: str, what: str = "", path: str | None = None) -> dict[str, str]:
    """The answers of a GDB that runs `rare.py` itself, with a breakpoint at its rare call."""
    own = ["--gdb", path] if path else []
    early = ["set startup-with-shell off", "set breakpoint pending on", "break getsid"]
    done = subprocess.run(
        command(
            *["gdb", *own, "-nx", "-batch", *(part for line in early for part in ("-iex", line))],
            *[*script(*commands), "--args", interpreter(version), RARE, *([what] if what else [])],
        ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env=plain_environment() | {"PYTHON_JIT": "1", "PYTHONDONTWRITEBYTECODE": "1"},
    )
    return answers(done)


def assert_in(function: str, backtrace: str) -> None:
    assert re.search(r"^#0 .*\bin getsid \(\)", backtrace, re.MULTILINE), backtrace
    name = rf"in py::{function}:{re.escape(RARE)} \(\) at {re.escape(RARE)}:\d+$"
    assert re.search(name, backtrace, re.MULTILINE), backtrace
    assert re.search(r"in _start \(\)$", backtrace, re.MULTILINE), backtrace


def test_a_program_started_under_gdb_and_run_again(version: str, gdb_path: str) -> None:
    commands = ["run", "bt", "info jit-regions", "continue", "info jit-regions ", "run ", "bt "]
    said = started(version, *commands, path=gdb_path)
    assert_in("before", said["bt"])
    assert f"py::before:{RARE}" in said["info jit-regions"]
    assert "exited normally" in said["continue"]
    assert "py::" not in said["info jit-regions "]
    assert_in("before", said["bt "])


@pytest.mark.parametrize("follow", ["parent", "child"])
def test_a_program_that_forks(follow: str, version: str, gdb_path: str) -> None:
    look = [f"set follow-fork-mode {follow}", "run", "bt", "continue", "bt "]
    said = started(version, *look, what="fork", path=gdb_path)
    assert_in("before", said["bt"])
    assert_in("before", said["bt "])


def test_a_program_that_executes_another(version: str, gdb_path: str) -> None:
    said = started(version, "run", "bt", "continue", "bt ", "info jit-regions", what="exec", path=gdb_path)
    assert_in("before", said["bt"])
    assert "is executing new program" in said["continue"]
    assert_in("after", said["bt "])
    assert "py::before" not in said["info jit-regions"]


# --- cores


@pytest.fixture(scope="module")
def core(loop: Program, tmp_path_factory: pytest.TempPathFactory) -> Path:
    prefix = tmp_path_factory.mktemp("core") / "core"
    subprocess.run(["gcore", "-o", prefix, str(loop.pid)], capture_output=True, check=True)
    return prefix.with_name(f"core.{loop.pid}")


@pytest.mark.parametrize("by", ["arguments", "commands"])
def test_a_core_is_named_in_a_batch(by: str, core: Path, version: str, gdb_path: str) -> None:
    python = interpreter(version)
    target = {
        "arguments": [python, core],
        "commands": ["-ex", f"file {python}", "-ex", f"core-file {core}"],
    }[by]

    done = jitunwind("gdb", "--gdb", gdb_path, "-nx", "-batch", *target, *script("bt", "info symbol $pc"))

    assert_named(answers(done)["bt"])


def test_an_executable_that_was_deleted(version: str, gdb_path: str, tmp_path: Path) -> None:
    """GDB 13 finds no file then, and would cut the stack, or invent frames."""
    copy = tmp_path / "python"
    shutil.copy(interpreter(version), copy)
    home = {"PYTHONHOME": str(Path(interpreter(version)).parents[1])}
    with Program([copy, LOOP], environment=home) as program:
        program.warm()
        copy.unlink()
        said = jitunwind("gdb", "--gdb", gdb_path, "-batch", "-p", program.pid, "-ex", "bt").stdout
        done = jitunwind("bt", "--gdb", gdb_path, program.pid)
        assert program.goes_on()
    assert re.search(r"^#\d+ .* in _start \(\)", said, re.MULTILINE), said
    assert re.search(NAMED, said, re.MULTILINE), said
    assert (done.returncode, done.stderr) == (0, "")
    assert "(deleted), or --debug-dir" not in done.stdout
