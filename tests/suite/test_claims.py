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
KIND = re.compile(
    r"\bJIT (is |was )?(off|on)\b|become hot|\bno JIT\b|without (a|one|its) JIT|stacks are whole|built without"
    r"|publishes (nothing|no)|nothing to publish|has published nothing|no executor|free-threaded",
    re.IGNORECASE,
)
EMPTY = "the list of codes is empty, and `Jits.why_no_code` says the rest"
FLAG = "the interpreter's flag, believed if it is a flag and the main program runs (Regions.jit_is_on)"
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
    ("startup/pythons.py", "the newest with a JIT on PATH"): ("each was asked", "tests/cli/test_usage.py"),
    ("tables/sources.py", "the process has published nothing"): (
        "the list of GDB's interface has no table for it",
        "tests/live/test_audit.py",
    ),
}


def texts() -> Iterator[tuple[str, str]]:
    """Each text of the kind that is no docstring: its module, and the text."""
    for path in sorted(SOURCES.rglob("*.py")):
        tree = ast.parse(path.read_text())
        documentation = {
            id(statement.value)
            for node in ast.walk(tree)
            for statement in (node.body if isinstance(getattr(node, "body", None), list) else ())
            if isinstance(statement, ast.Expr)
        }
        for node in ast.walk(tree):
            is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
            if is_text and id(node) not in documentation and KIND.search(node.value):
                yield str(path.relative_to(SOURCES)), node.value


def test_each_claim_has_a_check() -> None:
    for module, text in texts():
        known = [part for of, part in CLAIMS if of == module and part in text]
        assert known, f"{module} claims {text!r}: say here what checks it, and which test"


def test_each_listed_claim_is_still_made() -> None:
    said = list(texts())
    for module, part in CLAIMS:
        assert any(of == module and part in text for of, text in said), f"{module} says {part!r} no more"


@pytest.mark.parametrize("place", sorted({place for _, place in CLAIMS.values()}))
def test_the_tests_are_there(place: str) -> None:
    assert "def test_" in (ROOT / place).read_text()
