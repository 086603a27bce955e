"""Each error that jitunwind raises says what to do: by its class, or by its own second argument."""

import ast
from collections.abc import Iterator
from pathlib import Path

from jitunwind import errors

SOURCES = Path(__file__).parents[2] / "src/jitunwind"
WITHOUT = {
    name
    for name, each in vars(errors).items()
    if isinstance(each, type) and issubclass(each, errors.JitunwindError) and not each.hint
}
MEMORY = "UnreadableMemory"
"""It is said of an address, and becomes another error or a reason before anybody sees it."""


def without_hint() -> Iterator[str]:
    for path in sorted(SOURCES.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            given = len(node.args) + len(node.keywords)
            is_whole = given > 1 or any(isinstance(each, ast.Starred) for each in node.args)
            if node.func.id in WITHOUT - {MEMORY} and not is_whole:
                yield f"{path.relative_to(SOURCES)}:{node.lineno}: {ast.unparse(node)}"


def test_each_error_says_what_to_do() -> None:
    assert not list(without_hint())
