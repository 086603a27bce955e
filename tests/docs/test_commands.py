"""Every command of README.md, docs/using.md and the pages on how it works, run.

Commands are the lines that begin with `$ ` in ```console and ```sh blocks, and with `(gdb) ` in ```gdb
blocks; ```python blocks are programs; what cannot run here stands in ```text. PID, TID, CORE and PYTHON stand
for a process that runs tools/hot.py in JIT code, its thread, a core of it, and the interpreter. The checkout that
commands run in is a copy. A command that several documents have is run once.
"""

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import venv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.processes import interpreter, plain_environment

ROOT = Path(__file__).parents[2]
DESIGN = [
    "docs/how-it-works.md",
    *sorted(f"docs/design/{page.name}" for page in (ROOT / "docs/design").iterdir()),
]
DOCUMENTS = ("README.md", "docs/using.md", *DESIGN)
MOST_WORDS = 1500
"""Of a page on how it works: longer ones are split by topic."""
CHECKOUT = ("README.md", "LICENSE", "pyproject.toml", "setup.py", "src", "tools")
VERSION = "3.14"
PATIENCE = 240
"""Seconds until a command counts as one that never ends."""
PROMPTS = {"console": "$ ", "sh": "$ ", "gdb": "(gdb) "}
PR_SET_PDEATHSIG = 1
PR_SET_PTRACER, ANY_PROCESS = 0x59616D61, ctypes.c_ulong(-1)
LIBC = ctypes.CDLL(None)


@dataclass(frozen=True)
class Block:
    """A fenced block: what stands behind its opening fence, and its lines, without what is before the fence."""

    document: str
    line: int
    language: str
    lines: tuple[str, ...]

    @property
    def commands(self) -> list[str]:
        prompt = PROMPTS[self.language]
        return [line.removeprefix(prompt) for line in self.lines if line.startswith(prompt)]

    def __str__(self) -> str:
        return f"{Path(self.document).name}:{self.line}"


def blocks(document: str) -> Iterator[Block]:
    start, indent, language, lines = 0, 0, None, list[str]()
    for number, raw in enumerate((ROOT / document).read_text().splitlines(), 1):
        line = raw.strip()
        if language is None and line.startswith("```"):
            start, language, lines = number, line.removeprefix("```"), []
            indent = len(raw) - len(raw.lstrip())
        elif language is not None and line == "```":
            yield Block(document, start, language, tuple(lines))
            language = None
        elif language is not None:
            lines.append(raw[indent:].rstrip())
    assert language is None, f"{document}:{start}: a block without an end"


BLOCKS = [block for document in DOCUMENTS for block in blocks(document)]
SHELL = [block for block in BLOCKS if block.language in ("console", "sh")]
GDB = [block for block in BLOCKS if block.language == "gdb"]
PYTHON = [block for block in BLOCKS if block.language == "python"]


@dataclass(frozen=True)
class Stage:
    """Where commands run: the copy of the checkout, the environment, and what the words stand for."""

    checkout: Path
    environment: dict[str, str]
    words: dict[str, str]
    ran: dict[tuple[str, ...], str] = field(default_factory=dict)

    def fill_in(self, command: str) -> str:
        return re.sub(rf"\b({'|'.join(self.words)})\b", lambda match: self.words[match[0]], command)

    def run(self, *command: str) -> str:
        """What it prints, on stdout and stderr; fails if its status is not 0."""
        if command not in self.ran:
            pid = int(self.words["PID"])
            os.kill(pid, signal.SIGCONT)  # it runs only while somebody looks: others need the processor
            self.ran[command] = self._run(command)
            os.kill(pid, signal.SIGSTOP)
        return self.ran[command]

    def _run(self, command: tuple[str, ...]) -> str:
        with subprocess.Popen(
            command,
            cwd=self.checkout,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as process:
            try:
                said, _ = process.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                pytest.fail(f"{command} does not end; it has said:\n{process.communicate()[0]}")
        assert process.returncode == 0, f"exit status {process.returncode} of {command}:\n{said}"
        return said


def _in_child() -> None:
    """Die with the tests, and let debuggers attach that are no ancestors (prctl(2), Yama)."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    LIBC.prctl(PR_SET_PTRACER, ANY_PROCESS, 0, 0, 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("docs")


@pytest.fixture(scope="module")
def checkout(folder: Path) -> Path:
    """A copy, as `pip install .` builds in its sources' folder."""
    copy = folder / "checkout"
    copy.mkdir()
    leave_out = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in CHECKOUT:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=leave_out)
        else:
            shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def hot_process(checkout: Path) -> Iterator[int]:
    """The number of a process that runs in JIT code."""
    with subprocess.Popen(
        [interpreter(VERSION), str(checkout / "tools/hot.py")],
        env={**os.environ, "PYTHON_JIT": "1"},
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=_in_child,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process.pid
        process.kill()


@pytest.fixture(scope="module")
def core(folder: Path, hot_process: int) -> Path:
    prefix = folder / "core"
    done = subprocess.run(["gcore", "-o", prefix, str(hot_process)], capture_output=True, text=True)
    found = Path(f"{prefix}.{hot_process}")
    assert found.exists(), done.stdout + done.stderr
    return found


@pytest.fixture(scope="module")
def stage(folder: Path, checkout: Path, hot_process: int, core: Path) -> Stage:
    """`jitunwind` is that of this Python; `pip` installs into a virtual environment of its own."""
    programs, target = folder / "bin", folder / "venv"
    programs.mkdir()
    venv.create(target, with_pip=False)
    here = f"PYTHONPATH={ROOT / 'src'} exec {sys.executable}"
    for name, command in {
        "jitunwind": f'{here} -m jitunwind "$@"',
        "pip": f'exec {sys.executable} -m pip --python {target}/bin/python "$@"',
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{command}\n")
        (programs / name).chmod(0o755)
    path = os.pathsep.join([str(programs), os.environ["PATH"]])
    words = {
        "PID": str(hot_process),
        "TID": str(hot_process),
        "CORE": str(core),
        "PYTHON": interpreter(VERSION),
    }
    return Stage(checkout, plain_environment() | {"PATH": path}, words)


def complaints(said: str) -> list[str]:
    """Lines with which jitunwind, pip and GDB say that something has failed."""
    wrong = re.compile(r"^\s*(error:|ERROR|Traceback|Python Exception|Undefined |No symbol)", re.IGNORECASE)
    return [line for line in said.splitlines() if wrong.match(line)]


ONE_VERSION = pytest.mark.one_version("the documents show what one version prints")


@ONE_VERSION
@pytest.mark.parametrize("block", SHELL, ids=str)
def test_commands_of_a_shell_block_work(block: Block, stage: Stage) -> None:
    assert block.commands, f"{block}: no line begins with `$ `"
    for command in block.commands:
        said = stage.run("bash", "-euo", "pipefail", "-c", stage.fill_in(command))

        assert not complaints(said), f"$ {command}\n{said}"


@ONE_VERSION
@pytest.mark.parametrize("block", GDB, ids=str)
def test_a_session_in_gdb_works(block: Block, stage: Stage, tmp_path: Path) -> None:
    assert block.commands, f"{block}: no line begins with `(gdb) `"
    script, end = tmp_path / "session.gdb", "the session has come to its end"
    # GDB leaves a script at its first error.
    script.write_text("\n".join([*map(stage.fill_in, block.commands), f"echo {end}\\n"]))

    said = stage.run("jitunwind", "gdb", "-batch", "-p", stage.words["PID"], "-x", str(script))

    assert not complaints(said), said
    assert end in said, said
    assert "py::work:" in said, said


@ONE_VERSION
@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_a_program_works(block: Block, stage: Stage) -> None:
    program = "\n".join(block.lines).replace("PID", stage.words["PID"])
    said = stage.run("env", f"PYTHONPATH={ROOT / 'src'}", sys.executable, "-c", program)
    assert said
    assert not complaints(said), said


def test_commands_stand_where_they_are_run() -> None:
    run, shown = {*PROMPTS, "python"}, {"text", "json"}
    for block in BLOCKS:
        assert block.language in run | shown, f"{block}: ```{block.language}"


def anchors(page: Path) -> set[str]:
    """Those of a page's headings, as they are made for Markdown."""
    headings = re.findall(r"^#+ (.*)", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_between_documents_lead_somewhere() -> None:
    for document in DOCUMENTS:
        folder = (ROOT / document).parent
        for target, anchor in re.findall(
            r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", (ROOT / document).read_text()
        ):
            page = folder / target if target else ROOT / document
            assert page.exists(), f"{document}: {target}"
            assert not anchor or anchor in anchors(page), f"{document}: {target}#{anchor}"


def test_pages_on_how_it_works_are_short_and_listed() -> None:
    listed = (ROOT / "docs/how-it-works.md").read_text()
    for document in DESIGN:
        assert len((ROOT / document).read_text().split()) <= MOST_WORDS, document
        assert document == "docs/how-it-works.md" or f"({document.removeprefix('docs/')})" in listed, document
