"""What `make demo` runs: tools/demo.py as a command, and how it takes other tools that give no answer."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.processes import plain_environment

TOOLS = Path(__file__).parents[2] / "tools"
PEERS = ("py-spy", "pystack")


@pytest.fixture(scope="module")
def said() -> str:
    """What the demonstration prints into a pipe, of one version."""
    command = [sys.executable, str(TOOLS / "demo.py"), "3.14"]
    done = subprocess.run(command, env=plain_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_shows_what_jitunwind_finds_and_that_it_is_true(said: str) -> None:
    (row,) = re.findall(r"^  jitunwind .*", said, re.MULTILINE)
    named, functions = map(int, re.findall(r"(\d+) of (\d+);", row)[0])
    assert named == functions > 10
    assert "weigh:9, work:15; 0 of 8 registers wrong" in row
    table = re.findall(r"^r\w+ +(0x\w+) (right|WRONG) +(0x\w+) (right|WRONG) +(0x\w+)$", said, re.MULTILINE)
    assert len(table) == 8
    for plain, plain_verdict, ours, our_verdict, truth in table:
        assert (plain_verdict, our_verdict) == ("right" if plain == truth else "WRONG", "right")
        assert ours == truth


def test_it_shows_what_plain_gdb_loses(said: str) -> None:
    (row,) = re.findall(r"^  plain GDB .*", said, re.MULTILINE)
    (named_off, of_off), (named_on, of_on) = re.findall(r"(\d+) of (\d+)", row)[:2]
    assert named_off == of_off
    assert int(named_on) < int(of_on)
    assert re.search(r"[1-8] of 8 registers WRONG", row)


def test_it_shows_other_tools_or_why_they_give_no_answer(said: str) -> None:
    for peer in PEERS:
        (row,) = re.findall(rf"^  {peer} .*", said, re.MULTILINE)
        (shown,) = re.findall(rf"^\$ {peer} [^\n]*\n(.*?)^\$", said, re.MULTILINE | re.DOTALL)
        if "no answer" in row:
            assert f"{peer} gives no answer here: " in shown
        else:
            assert "(stuck.py:9)" in shown or 'File "stuck.py", line 9, in weigh' in shown


def test_it_is_plain_text_in_a_pipe_whose_tables_have_eighty_columns(said: str) -> None:
    assert "\033" not in said
    rows = re.findall(r"^(?:r\w+ .*|  (?:plain|py-spy|pystack|jitunwind) .*)", said, re.MULTILINE)
    assert len(rows) == 8 + 4
    assert [row for row in rows if len(row) > 80] == []


@pytest.fixture(scope="module")
def one_process() -> ModuleType:
    """tools/one_process.py, which imports its neighbours."""
    sys.path.insert(0, str(TOOLS))
    try:
        spec = importlib.util.spec_from_file_location("one_process", TOOLS / "one_process.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["one_process"] = module
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(TOOLS))


def test_a_tool_that_is_not_there_is_said_to_be_missing(one_process: ModuleType) -> None:
    answer = one_process.ask(one_process.Peer("no-such-tool", "dump"), os.getpid())

    assert answer.lines == []
    assert "not installed" in answer.failure


def test_a_tool_that_fails_is_said_to_have_failed(one_process: ModuleType) -> None:
    answer = one_process.ask(one_process.Peer("ls", "--no-such-option"), os.getpid())

    assert answer.failure.startswith("exit status 2\n")
    assert "no-such-option" in answer.failure
