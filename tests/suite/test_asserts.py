"""No test asserts that a function exists, as `assert process.poll` does, where it means to call it."""

import ast
import importlib
import pathlib
import subprocess
from collections.abc import Iterator

import pytest

from tests.support.processes import ROOT

FILES = sorted(
    file for folder in ("tests", "bench", "src", "tools") for file in (ROOT / folder).rglob("*.py")
)
KNOWN = (bytes, dict, list, set, str, pathlib.Path, subprocess.Popen)
"""Types that tests have values of, whose methods' names no attribute has."""
METHODS = {
    name
    for each in KNOWN
    for name, value in vars(each).items()
    if callable(value) and not name.startswith("_")
}


def bare(tree: ast.AST) -> Iterator[ast.Name | ast.Attribute]:
    """The names and attributes that are asserted as they are, by themselves or in a conjunction."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            tests = node.test.values if isinstance(node.test, ast.BoolOp) else [node.test]
            yield from (each for each in tests if isinstance(each, ast.Name | ast.Attribute))


def functions_in(tree: ast.Module) -> set[str]:
    """The functions and classes of a module: those it defines at its top, and those it imports from others."""
    found = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {each.asname or each.name for each in node.names if is_function(node.module, each.name)}
    return found


def modules_in(tree: ast.Module) -> dict[str, str]:
    return {
        each.asname or each.name: each.name
        for node in tree.body
        if isinstance(node, ast.Import)
        for each in node.names
    }


def is_function(module: str, name: str) -> bool:
    try:
        return callable(getattr(importlib.import_module(module), name, None))
    except ImportError:  # such as `gdb`, which only GDB has
        return False


def always_true(source: str) -> list[int]:
    """The lines whose asserts are of a function, a class or a method."""
    tree = ast.parse(source)
    asserted = list(bare(tree))
    if not asserted:
        return []
    functions, modules = functions_in(tree), modules_in(tree)
    local = {
        node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    local |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    return [node.lineno for node in asserted if _is_function(node, functions - local, modules)]


def _is_function(node: ast.Name | ast.Attribute, functions: set[str], modules: dict[str, str]) -> bool:
    if isinstance(node, ast.Name):
        return node.id in functions
    if isinstance(node.value, ast.Name) and node.value.id in modules:
        return is_function(modules[node.value.id], node.attr)
    return node.attr in METHODS


@pytest.mark.parametrize(
    "source",
    [
        "import os\nassert os.waitpid",
        "from os import waitpid\nassert waitpid and 1",
        "def f(): pass\nassert f",
        "def f(x):\n assert x.poll",
    ],
)
def test_an_assert_of_a_function_is_found(source: str) -> None:
    assert always_true(source)


@pytest.mark.parametrize(
    "source",
    ["import os\nassert os.name", "def f(f):\n assert f", "def f(x):\n assert x.poll()", "assert __debug__"],
)
def test_others_are_not(source: str) -> None:
    assert not always_true(source)


def test_no_assert_is_of_a_function() -> None:
    found = {str(file): always_true(file.read_text(encoding="utf-8")) for file in FILES}
    assert not {file: lines for file, lines in found.items() if lines}
