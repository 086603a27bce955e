"""What jitunwind claims of a JIT: every text that says that it is on, off or absent, or that all is well, has a check.

"Never say what was not checked": a new text of the kind fails here until its check and a test of it are listed.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "src/jitunwind"
SUBJECT = re.compile(
    r"\bJITs?\b|Python|\bexecutors?\b|publish|\bstacks?\b|\bhot\b|\bstate names\b|file of its own|\bon yet\b|"
    r"free-threaded"
)
ABSOLUTE = re.compile(
    r"\b(no|not|none|nobody|nothing|never|off|without|whole|empty)\b|\bJIT (is )?on\b|: run and enable|"
    r"free-threaded",
    re.IGNORECASE,
)
"""A text that has a word of each says something of a JIT, a Python or a stack that must have been checked."""
EMPTY = "the list of codes is empty, and `Jits.why_no_code` says the rest"
FLAG = "the interpreter's flag, believed if it is a flag and the main program runs (Regions.jit_is_on)"
ASKED = "the Python itself was asked"
UNKNOWN = "the debug offsets tell its version, or there are none"
CLAIMS = {
    # (module, part of the text): (what is checked before it is said, the test of that)
    ("audit/session.py", "there is no JIT code"): (EMPTY, "tests/live/test_audit_offline.py"),
    ("audit/subject.py", " has no JIT code, and will have none: "): (
        FLAG,
        "tests/live/test_audit_waiting.py",
    ),
    ("audit/subject.py", " has no JIT code"): (EMPTY, "tests/live/test_audit_offline.py"),
    ("audit/subject.py", "the program has no JIT code"): (EMPTY, "tests/live/test_audit_aarch64.py"),
    ("audit/waiting.py", "no JIT code yet: "): (EMPTY, "tests/live/test_audit_waiting.py"),
    ("audit/waiting.py", "no JIT code came up"): (
        "no region was stepped",
        "tests/live/test_audit_waiting.py",
    ),
    ("cli/bt.py", "no JIT code here: this Python's JIT is off"): (FLAG, "tests/cli/test_bad_input.py"),
    ("cli/bt.py", "there are no Python frames: "): ("no CPython is known", "tests/cli/test_rounds.py"),
    ("cli/bt.py", "no JIT code is known here: "): (EMPTY, "tests/cli/test_bad_input.py"),
    ("cli/bt.py", "all stacks are whole"): ("no thread has a reason", "tests/stacks/test_stacks.py"),
    ("cli/enable.py", " has its JIT off"): (
        "the process itself: sys._jit.is_enabled()",
        "tests/cli/test_enable.py",
    ),
    ("cli/explain.py", "no JIT code is known in "): (EMPTY, "tests/cli/test_explain.py"),
    ("cli/explain.py", "no JIT code in "): ("a dump without code", "tests/cli/test_explain.py"),
    ("cli/record.py", "the JIT of this Python is off"): (FLAG, "tests/profile/test_record.py"),
    ("profile/page.py", ", JIT on"): (FLAG, "tests/profile/test_page.py"),
    ("profile/page.py", ", JIT off"): (FLAG, "tests/profile/test_page.py"),
    ("cli/page.py", ", JIT on"): (FLAG, "tests/cli/test_bt.py"),
    ("cli/page.py", ", JIT off"): (FLAG, "tests/cli/test_bt.py"),
    ("gdbplugin/commands.py", "No JIT code.\n"): (EMPTY, "tests/cli/test_gdb.py"),
    ("gdbplugin/commands.py", "No JIT code is known: "): ("no JIT is known", "tests/cli/test_gdb.py"),
    ("gdbplugin/commands.py", "No JIT code at "): ("no code holds the address", "tests/cli/test_gdb.py"),
    ("gdbplugin/unwinder.py", "no JIT of this process says"): ("each was asked", "tests/jits/test_known.py"),
    ("stacks/jitcode.py", "no JIT of this process says"): ("each was asked", "tests/jits/test_known.py"),
    ("stacks/sampledcode.py", "no JIT of this process says"): (
        "each was asked",
        "tests/profile/test_record.py",
    ),
    ("jits/known.py", "the JIT is on, and nothing has become hot"): (
        f"{FLAG}; and no executable memory is without a file",
        "tests/cli/test_bad_input.py",
    ),
    ("jits/known.py", "no JIT that is known tells what is in it"): (
        "each was asked",
        "tests/jits/test_known.py",
    ),
    ("jits/known.py", "whether its JIT is on is not known"): (
        "the flag tells nothing",
        "tests/jits/test_known.py",
    ),
    ("jits/cpython/discovery.py", "no executor was found"): (
        "the interpreter was searched",
        "tests/jits/cpython/test_discovery.py",
    ),
    ("jits/cpython/jit.py", "its JIT is off"): (FLAG, "tests/live/test_audit_waiting.py"),
    ("jits/cpython/layout.py", "free-threaded"): (
        "the debug offsets' flag",
        "tests/jits/cpython/test_objects.py",
    ),
    ("jits/cpython/uops.py", "no executor is known for this code"): (
        "none has this machine code",
        "tests/jits/cpython/test_uops.py",
    ),
    ("profile/perf.py", "perf saw no JIT code in it"): (
        "no frame is of JIT code",
        "tests/profile/test_perf.py",
    ),
    ("startup/pythons.py", "the newest with a JIT on PATH"): ("each was asked", "tests/cli/test_usage.py"),
    ("tables/sources.py", "the process has published nothing"): (
        "the list of GDB's interface has no table for it",
        "tests/live/test_audit.py",
    ),
    ("agent/library.py", "this program exports no functions of Python's"): (
        "the dynamic linker found none for the agent (python.h, MODULE)",
        "tests/live/test_builds.py",
    ),
    ("audit/subject.py", " is no CPython: "): (
        "no _PyRuntime was found, and no JIT's list has code",
        "tests/live/test_audit_waiting.py",
    ),
    ("audit/waiting.py", "there is JIT code, and nothing has entered it since the start"): (
        "codes are known, and none of the breakpoints at their entries was hit",
        "tests/live/test_audit_waiting.py",
    ),
    ("audit/verdicts.py", "the table does not lead out of JIT code"): (
        "the table was executed frame by frame",
        "tests/audit/test_report.py",
    ),
    ("cli/audit.py", "no instruction of JIT code was judged in "): (
        "the witnesses' counts are 0",
        "tests/live/test_audit_waiting.py",
    ),
    ("cli/bt.py", "no CPython here: "): ("no _PyRuntime was found", "tests/cli/test_bad_input.py"),
    ("cli/bt.py", "NOT every stack is whole"): ("a thread has a reason", "tests/cli/test_bad_input.py"),
    ("cli/doctor.py", "built: "): ("the agent's files are there", "tests/cli/test_doctor.py"),
    ("cli/enable.py", " does not publish its JIT code: "): (ASKED, "tests/cli/test_enable.py"),
    ("cli/enable.py", " publishes its JIT code no more: "): (ASKED, "tests/cli/test_enable.py"),
    ("cli/page.py", "No Python"): ("no _PyRuntime was found", "tests/cli/test_bad_input.py"),
    ("cli/page.py", "No CPython that is known"): (UNKNOWN, "tests/cli/test_newer_cpython.py"),
    ("explain/subjects.py", "its JIT does not tell what it made the code of"): (
        "it has not that protocol (jits/optional.py)",
        "tests/cli/test_explain.py",
    ),
    ("explain/words.py", "No thread's state names one of these regions. "): (
        "each thread's state was read",
        "tests/cli/test_explain.py",
    ),
    ("cli/record.py", "no CPython that is known was found there"): (
        "no CPython is known",
        "tests/profile/test_record.py",
    ),
    ("profile/page.py", "no CPython that is known"): ("no CPython is known", "tests/profile/test_page.py"),
    ("profile/table.py", " in JIT code without a name"): (
        "the samples were counted",
        "tests/profile/test_record.py",
    ),
    ("gdbplugin/launch.py", " has no Python"): ("that GDB was asked", "tests/cli/test_gdb.py"),
    ("jits/cpython/diagnosis.py", "off, or not on yet"): (
        "the interpreter's flag; whether its offset was checked is said",
        "tests/cli/test_doctor.py",
    ),
    ("jits/cpython/executors.py", ", which is none"): (
        "the name of its type was read",
        "tests/cli/test_bad_input.py",
    ),
    ("jits/cpython/executors.py", "; it is not used"): (
        "the count is larger than any process's",
        "tests/cli/test_bad_input.py",
    ),
    ("jits/cpython/inside/follow.py", "publishing is off"): (
        "nobody follows the JIT of this process, which has executable memory of no file",
        "tests/live/test_publishing.py",
    ),
    ("jits/cpython/inside/follow.py", " is not known here"): (
        "it has no sys._jit",
        "tests/publishing/test_follow.py",
    ),
    ("jits/cpython/layout.py", " is not known here: its executors were found"): (
        "an executor was found through these offsets (discovery.read_layout)",
        "tests/cli/test_newer_cpython.py",
    ),
    ("jits/cpython/layout.py", "nothing that it has loaded is a CPython's runtime"): (
        "symbols, and the data of its program and of what has python in its name",
        "tests/cli/test_enable.py",
    ),
    ("jits/cpython/layout.py", "a CPython that does not tell its version"): (
        "Py_Version was read",
        "tests/jits/cpython/test_objects.py",
    ),
    ("jits/cpython/uops.py", "the machine code is not that of the executor's trace"): (
        "the sizes of its stencils do not add up",
        "tests/jits/cpython/test_uops.py",
    ),
    ("jits/cpython/inside/follow.py", "the process ends before that"): (
        "regions wait when the time for it is over",
        "tests/live/test_perf_files.py",
    ),
    ("startup/__init__.py", "is not written for perf"): (
        "jitunwind.enable(perf=) has raised",
        "tests/cli/test_run.py",
    ),
    ("startup/__init__.py", "is not published"): (
        "jitunwind.enable() has raised",
        "tests/startup/test_install.py",
    ),
    ("startup/attach.py", " has come to no place where Python can execute something"): (
        "it has not begun to answer in that time",
        "tests/cli/test_enable.py",
    ),
    ("startup/attach.py", " is no CPython: "): ("no _PyRuntime was found", "tests/cli/test_enable.py"),
    ("startup/attach.py", "nothing was changed"): (
        "the request was withdrawn before it began",
        "tests/cli/test_enable.py",
    ),
    ("startup/attach.py", " publishing, and has not said within "): (
        "it has begun to answer, and not ended",
        "tests/cli/test_enable.py",
    ),
    ("startup/launch.py", " a Python does not heed what would switch publishing on"): (
        "its options (CPython, Using/cmdline)",
        "tests/cli/test_run.py",
    ),
    ("startup/pep768.py", " has no thread that could execute Python"): (
        "the first interpreter's threads were read",
        "tests/cli/test_enable.py",
    ),
    ("startup/pythons.py", " is not known here: "): (ASKED, "tests/cli/test_newer_cpython.py"),
    ("startup/pythons.py", "no Python with a JIT was found"): (ASKED, "tests/cli/test_usage.py"),
    ("startup/pythons.py", " is no Python"): (ASKED, "tests/cli/test_run.py"),
    ("startup/pythons.py", "no Python that runs"): (ASKED, "tests/cli/test_usage.py"),
    ("gdbplugin/stack.py", "this part of the stack may not be stored"): (
        "the return address was read",
        "tests/cli/test_gdb.py",
    ),
    ("stacks/library.py", "the core does not hold this stack"): (
        "what the core has at the stack pointer was read",
        "tests/stacks/test_situations.py",
    ),
    ("stacks/walk.py", "this part of the stack may not be stored"): (
        "the return address was read",
        "tests/stacks/test_stacks.py",
    ),
    ("tables/sources.py", "the frames published at "): (
        "they break the rules of call frame information",
        "tests/tables/test_sources.py",
    ),
    ("audit/reading.py", "the frames published at "): (
        "they break the rules of call frame information",
        "tests/audit/test_readers.py",
    ),
    ("audit/reading.py", "the stack could not be read"): (
        "memory was read, and was not there",
        "tests/audit/test_readers.py",
    ),
    ("audit/static.py", "recovery does not know where the stack pointer is"): (
        "the recovered row was looked up",
        "tests/live/test_audit_offline.py",
    ),
}
NO_CLAIMS = {
    # (module, part of the text): what it is instead
    ("check/", ""): "about a file's own tables and functions",
    ("cli/audit.py", "Have the kernel stop at each instruction."): "help of an option",
    ("cli/check.py", ""): "about a file's own functions",
    ("explain/words.py", "A thread's state names its innermost JIT code alone"): "what the reader is shown",
    ("jits/dump.py", " no dump of JIT code"): "about the file that was named",
    ("profile/collapsed.py", ""): "about the file that was named",
    ("publishing/merged.py", "the gate's CFA is not by the stack pointer"): "about a row",
    ("remote/requested.py", "the process has no stack on which it could read a file"): "about a stub",
    ("startup/pythons.py", "import sys; jit = "): "code for that Python",
}


def texts() -> Iterator[tuple[str, str]]:
    """Each text of the kind that is no docstring: its module, and the text, with {} for what is put into it."""
    for path in sorted(SOURCES.rglob("*.py")):
        for text in texts_in(ast.parse(path.read_text())):
            if is_claim(text):
                yield str(path.relative_to(SOURCES)), text


def is_claim(text: str) -> bool:
    return " " in text and bool(SUBJECT.search(text) and ABSOLUTE.search(text))


def texts_in(tree: ast.Module) -> Iterator[str]:
    nodes = list(ast.walk(tree))
    parts = {
        id(statement.value)  # docstrings
        for node in nodes
        for statement in (node.body if isinstance(getattr(node, "body", None), list) else ())
        if isinstance(statement, ast.Expr)
    }
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            parts.update(map(id, node.values))
            yield "".join(each.value if isinstance(each, ast.Constant) else "{}" for each in node.values)
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            yield node.value


@pytest.mark.parametrize(
    "text",
    [
        "nothing in this process is hot",
        "there are no executors",
        "every stack is whole",
        "its JIT is on",
        "no JIT is there",
        "this Python was built without",
        "it is not published",
    ],
)
def test_a_new_claim_would_be_noticed(text: str) -> None:
    assert is_claim(text)


def test_each_claim_has_a_check() -> None:
    for module, text in texts():
        if any(module.startswith(of) and part in text for of, part in NO_CLAIMS):
            continue
        known = [part for of, part in CLAIMS if of == module and part in text]
        assert known, f"{module} claims {text!r}: say here what checks it, and which test"


def test_each_listed_claim_is_still_made() -> None:
    said = list(texts())
    for module, part in (*CLAIMS, *NO_CLAIMS):
        assert any(of.startswith(module) and part in text for of, text in said), (
            f"{module} says {part!r} no more"
        )


@pytest.mark.parametrize("place", sorted({place for _, place in CLAIMS.values()}))
def test_the_tests_are_there(place: str) -> None:
    assert "def test_" in (ROOT / place).read_text()
