"""What people type: options as other tools have them, slips of the finger, and what --help and the docs say of it."""

import os
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import click
import pytest

from jitunwind import errors
from jitunwind.cli import app
from jitunwind.cli.app import cli
from jitunwind.cli.usage import in_words
from jitunwind.cli.verb import Context
from tests.support.forked import Forked
from tests.support.processes import ROOT, interpreter, plain_environment

ROOT_CONTEXT = Context(cli, info_name="jitunwind", help_option_names=["-h", "--help"])
VERBS = {name: cli.get_command(ROOT_CONTEXT, name) for name in cli.list_commands(ROOT_CONTEXT)}
WITH_PID = ("audit", "bt", "dump", "enable", "explain", "record")
USING = (ROOT / "docs/using.md").read_text()


@pytest.fixture(scope="module")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forked]:
    with Forked(tmp_path_factory.mktemp("usage"), plain_environment()) as forked:
        yield forked


def told(forked: Forked, *arguments: object) -> list[str]:
    """What is wrong with a command line, and what to try."""
    done = forked(*arguments)
    said = re.fullmatch(r"error: (.+)\n  try: (.+)\n", done.stderr.decode())
    assert said, (arguments, done)
    assert (done.returncode, done.stdout) == (2, b""), done
    return [said[1], said[2]]


# --- options as other tools have them


def test_a_process_can_be_named_by_an_option(forked: Forked) -> None:
    for verb in WITH_PID:
        rest = ["-o", "/dev/null"] if verb == "dump" else []
        for option in (["-p", "0"], ["--pid", "0"], ["--pid=0"]):
            assert told(forked, verb, *rest, *option)[0] == "there is no process 0", verb
        assert told(forked, verb, *rest, "-p", "core")[0] == "--pid: core is no process number"
        assert told(forked, verb, *rest, "-p", "0", "1")[0] == "both --pid 0 and 1 are given"


def test_help_and_version_by_every_name(forked: Forked) -> None:
    assert (
        forked("-V").stdout
        == forked("--version").stdout
        == f"jitunwind, version {version('jitunwind')}\n".encode()
    )
    assert forked("-h").stdout == forked("--help").stdout == forked("help").stdout
    for verb in VERBS:
        text = forked("help", verb).stdout
        assert text.startswith(f"Usage: jitunwind {verb} ".encode())
        assert text == forked(verb, "-h").stdout == forked(verb, "--help").stdout, verb


# --- slips

CONTRADICTIONS = (
    ("--python-only", "--native-only"),
    ("--python", "--native-only"),
    ("--c-lines", "--python-only"),
    ("--c-lines", "--no-lines"),
)


@pytest.mark.parametrize(
    ("typed", "what", "tried"),
    [
        (["tb"], "there is no verb tb", "jitunwind bt; "),
        (["chekc", "x"], "there is no verb chekc", "jitunwind check; "),
        (["backtrace", "1"], "there is no verb backtrace", "jitunwind bt; "),
        (["help", "adit"], "there is no verb adit", "jitunwind audit; "),
        (["xyzzy"], "there is no verb xyzzy", "one of agent, audit, bt, "),
        (["4711"], "there is no verb 4711", "jitunwind bt 4711; "),
        (["--verison"], "jitunwind has no option --verison", "--version; "),
        (["bt", "--tread", "1", "2"], "jitunwind bt has no option --tread", "--thread; "),
        (["bt", "--xyzzy", "1"], "jitunwind bt has no option --xyzzy", "jitunwind bt --help"),
        (["audit", "--step", "9", "1"], "jitunwind audit has no option --step", "--steps"),
        (["run", "--pyhton", "P", "x"], "jitunwind run has no option --pyhton", "--python; "),
        (["run", "--pyhton=P", "x"], "jitunwind run has no option --pyhton", "--python; "),
        (["bt"], "PID|CORE... is missing", "jitunwind bt [OPTIONS] PID|CORE...; "),
        (["check"], "FILE... is missing", "jitunwind check [OPTIONS] FILE...; "),
        (["dump", "1"], "--output is missing", "jitunwind dump [OPTIONS] PID|CORE --output FILE; "),
        (["explain", "1", "2"], "too many arguments: 2 is left over", "jitunwind explain --help"),
        (["bt", "1", "--watch", "0"], "--watch: 0.0 is not in the range", "jitunwind bt --help"),
        *(
            (["bt", "1", *both], f"{both[0]} and {both[1]} contradict each other", "one of the two")
            for both in CONTRADICTIONS
        ),
        (["bt", "1", "--thread", "x"], "--thread: 'x' is not a valid integer", "jitunwind bt --help"),
        (["bt", "1", "--color", "mauve"], "--color: 'mauve' is not one of ", "jitunwind bt --help"),
        (["bt", "1", "--thread"], "option '--thread' requires an argument", "jitunwind bt --help"),
        (["check", "--jobs", "0", "x"], "--jobs: 0 is too small: 1 or more", "jitunwind check --help"),
        (["completion", "tcsh"], "SHELL: 'tcsh' is not one of ", "jitunwind completion --help"),
        (["enable", "hot.py"], "PID: hot.py is no process number", "jitunwind enable --help"),
        (["audit"], "name a PID, a command, a core or a dump", "jitunwind audit --help"),
        (["record"], "name a PID, or a command behind --", "jitunwind record --help"),
        (["top"], "there is no verb top", "jitunwind record; "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_slip_is_named_with_what_was_meant(typed: list[str], what: str, tried: str, forked: Forked) -> None:
    said, hint = told(forked, *typed)
    assert said.startswith(what)
    assert hint.startswith(tried)


def test_an_empty_argument_is_named(forked: Forked) -> None:
    for arguments, name in (
        (["bt", ""], "PID|CORE..."),
        (["bt", "1", ""], "PID|CORE..."),
        (["bt", "1", "--gdb", ""], "--gdb"),
        (["check", "/bin/true", ""], "FILE..."),
        (["audit", ""], "PID | COMMAND... | CORE | DUMP"),
        (["audit", "--table", "", "1"], "--table"),
        (["dump", "1", "-o", ""], "--output"),
        (["explain", "1", "--region", ""], "--region"),
        (["explain", "-p", ""], "--pid"),
        (["record", "-o", "", "1"], "--output"),
        (["run", "--python", "", "x"], "--python"),
    ):
        assert told(forked, *arguments)[0] == f"{name} is empty", arguments


def test_without_a_verb_the_verbs_are_shown(forked: Forked) -> None:
    done = forked()
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == forked("--help").stdout


def test_clicks_own_errors_are_sentences() -> None:
    assert in_words(click.UsageError("Something is wrong.")) == ("something is wrong", "jitunwind --help")
    assert in_words(click.ClickException("JSON is no YAML.")) == ("JSON is no YAML", "jitunwind --help")


def test_a_fault_of_its_own_is_no_verdict(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 1 says that something is wrong in what was looked at."""
    for error, said in (
        (ZeroDivisionError("by zero"), "error: jitunwind itself has failed: ZeroDivisionError: by zero"),
        (FileNotFoundError(2, "No such file", "/x"), "error: /x: No such file"),
    ):

        def fail(error: Exception = error, **options: object) -> None:
            raise error

        monkeypatch.setattr(app, "cli", fail)
        assert app.run() == 2
        *before, what, hint = capsys.readouterr().err.splitlines()
        assert (what, hint[:7], any("Traceback" in line for line in before)) == (
            said,
            "  try: ",
            isinstance(error, ZeroDivisionError),
        )


# --- what --help says


def test_every_option_is_described() -> None:
    for name, verb in VERBS.items():
        assert verb is not None
        for parameter in verb.get_params(Context(verb, ROOT_CONTEXT, name)):
            if isinstance(parameter, click.Option):
                assert parameter.help, (name, parameter.opts)


def test_a_verbs_summary_fits_a_line(forked: Forked) -> None:
    lines = forked("--help", columns=80).stdout.decode().partition("Verbs:\n")[2].splitlines()
    assert [line.split()[0] for line in lines] == sorted(VERBS)
    narrow = forked("--help", columns=40).stdout.decode().partition("Verbs:\n")[2]
    assert "..." not in narrow
    assert " ".join(narrow.split()) == " ".join(" ".join(lines).split())


def statuses_in_help(verb: str) -> set[str]:
    command = VERBS[verb]
    assert command is not None
    said = " ".join((command.help or "").split())
    _, _, text = said.partition("Exit status: ")
    assert text, f"{verb} --help says nothing of its exit status"
    return set(re.findall(r"(?:^|; )([012]) ", text))


def test_exit_statuses_are_in_one_table_and_in_help() -> None:
    section = USING.partition("## Exit status\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    in_docs = {
        row[0].strip("`"): {status for status, text in zip("012", row[1:], strict=True) if text.strip("– ")}
        for row in rows
    }
    assert in_docs == {verb: statuses_in_help(verb) for verb in VERBS}
    others = USING.replace(section, "")
    assert not re.findall(r"^\| (?:0|1|2|130) \|", others, re.MULTILINE), "exit statuses stand in one table"


# --- hints


def test_hints_name_what_can_be_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    hints = " ".join(vars(errors)[name].hint for name in ("NoEmulator", "GdbMissing"))
    assert all(
        re.split(r"[>=<]", each)[0] in hints for extra in ("emulate", "gdb") for each in project[extra]
    )
    for file in (ROOT / "src/jitunwind").rglob("*.py"):
        assert not re.search(r"pip install '?jitunwind\[", file.read_text()), (
            f"{file}: there is no release yet"
        )


# --- which Python `run` takes


@pytest.fixture
def bin_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    return folder


PRINT = "import sys; print(sys.version_info[1])"


@pytest.mark.live
@pytest.mark.one_version("it chooses among both")
@pytest.mark.skipif(sys.version_info >= (3, 14), reason="this Python may have a JIT")
def test_run_finds_a_python_with_a_jit(bin_folder: Path, tmp_path: Path) -> None:
    with Forked(tmp_path, plain_environment() | {"PATH": str(bin_folder)}) as forked:

        def runs(*arguments: str) -> str:
            """What it says of the Python that it has taken, and the minor version that this has."""
            done = forked("run", *arguments)
            assert done.returncode == 0, done
            return done.stderr.decode() + done.stdout.decode()

        # GIVEN nothing on PATH, and a jitunwind that runs in an old Python
        version = ".".join(map(str, sys.version_info[:3]))
        what, hint = told(forked, "run", "-c", PRINT)
        assert what == f"no Python with a JIT was found; without one are {sys.executable} ({version})"
        assert "--python PYTHON" in hint
        # GIVEN a python3 that is too old, a newest one that is none, and two with a JIT
        (bin_folder / "python3").symlink_to(sys.executable)
        (bin_folder / "python3.99").write_text("#!/bin/sh\n")
        (bin_folder / "python3.99").chmod(0o755)
        for version in ("3.14", "3.15"):
            (bin_folder / f"python{version}").symlink_to(interpreter(version))
        assert re.fullmatch(
            rf"note: runs in {bin_folder}/python3\.15 \(CPython 3\.15\.\w+, the newest with a JIT on PATH\); "
            r"--python names another\n15\n",
            runs("-c", PRINT),
        )
        # GIVEN a python3 with a JIT
        (bin_folder / "python3").unlink()
        (bin_folder / "python3").symlink_to(interpreter("3.14"))
        assert re.search(r"python3 on PATH\).*\n14\n$", runs("-c", PRINT))
        # GIVEN a script that names its Python
        for line in ("/usr/bin/env -S python3.15 -O", interpreter("3.15")):
            (tmp_path / "script.py").write_text(f"#!{line}\n{PRINT}\n")
            said = runs("-X", "dev", "script.py")
            assert re.search(r"named in the first line of script\.py\).*\n15\n$", said), said
        # and one that is named needs no line
        assert runs("--python", "python3.14", "script.py") == "14\n"


def test_run_says_what_is_no_python(forked: Forked) -> None:
    for program in ("/bin/true", "/bin/echo", "/bin/sh"):
        assert told(forked, "run", "--python", program, "x")[0] == f"{program} is no Python"
    assert told(forked, "run", "--python", os.devnull, "x")[0].startswith(
        "--python /dev/null: that is no program"
    )


def test_a_timeout_is_a_number_of_seconds(forked: Forked) -> None:
    for verb in ("enable", "disable", "audit"):
        for seconds in ("nan", "inf", "1e308", "-1", "abc"):
            assert "--timeout" in told(forked, verb, "--timeout", seconds, "1")[0], (verb, seconds)
