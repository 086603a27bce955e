"""LLDB, which has no plugin of ours: it knows JIT code by what the process publishes."""

import re
import shutil
import subprocess

import pytest

from tests.support.live import PATIENCE, Interpreter, newest_lldb, running

_FRAME = re.compile(r"^ *\*? *frame #\d+: 0x[0-9a-f]+ \S*?`(.*)$", re.MULTILINE)


@pytest.fixture(scope="module", params=["system", "newest"])
def lldb(request: pytest.FixtureRequest) -> str:
    if request.param == "newest":
        return newest_lldb()
    found = shutil.which("lldb") or shutil.which("lldb-14")
    if found is None:
        pytest.skip("there is no lldb")
    return found


def say(lldb: str, python: Interpreter, *commands: str) -> str:
    """What LLDB says to `commands`. The target is made first: LLDB 14 forgets, when it learns the executable of a
    process that it is attached to, what that has published."""
    told = [part for each in (f"target create {python.python}", *commands) for part in ("-o", each)]
    done = subprocess.run(
        [lldb, "--no-lldbinit", "--batch", *told],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=PATIENCE,
    )
    return done.stdout


def functions(said: str) -> list[str]:
    """The functions of a `bt`, the innermost first."""
    stack = said[said.index("thread backtrace") :]
    return [name.split(" ")[0] for name in _FRAME.findall(stack)]


def test_the_stack_is_whole_and_named_through_jit_code(lldb: str, python: Interpreter) -> None:
    """Of a thread that waits in a C function which JIT code has called."""
    with running(python, "two_threads", published=True) as started:
        attach = f"process attach -p {started.pid}"
        said = say(lldb, python, attach, "thread select 2", "thread backtrace", "detach")
    names = functions(said)
    jit = [name for name in names if name.startswith("py::other:")]
    assert jit, said
    shim = "py::jit_shim:<jit>" if python.shim_in_region else "_PyJIT_Entry"
    assert names[names.index(jit[0]) + 1] == shim, said
    outer = names[names.index(shim) + 1 :]
    assert len(outer) > 5, said
    assert not any(name.startswith("py::") for name in outer), said
    assert "two_threads.py:" in said, said


def test_what_lldb_knows_stays_known_while_code_comes(lldb: str, python: Interpreter) -> None:
    """JIT code calls getpgid, and is published in a file that changes again and again."""
    with running(python, "grows", published=True) as started:
        attach = f"process attach -p {started.pid}"
        first = ("breakpoint set --name getpgid --ignore-count 250", "continue", "thread backtrace")
        again = ("breakpoint modify --ignore-count 1000 1", "continue", "thread backtrace")
        said = say(lldb, python, attach, *first, *again, "process kill")
    for stack in said.split("thread backtrace")[1:]:
        names = [name.split(" ")[0] for name in _FRAME.findall(stack)]
        assert any(name.startswith("py::calls:") for name in names), said
        assert "_start" in names, said


def test_code_that_lldb_cannot_analyse_is_unwound_by_its_rows(lldb: str, python: Interpreter) -> None:
    for published in (True, False):
        with running(
            python, "unanalysable", *(["published"] if published else []), published=True
        ) as started:
            said = say(lldb, python, f"process attach -p {started.pid}", "thread backtrace", "detach")
        names = functions(said)
        assert (names[-1] == "_start" and "made::of_hand" in names) is published, said
