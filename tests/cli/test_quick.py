"""`bt`'s usual command lines, which are read without click: to the same values as by click, or not at all."""

import itertools
import os
import subprocess
import sys

import click
import pytest

from jitunwind.cli import bt_command, quick
from tests.support.processes import plain_environment

WORDS = (
    *(
        "123",
        "-p",
        "--pid",
        "--thread",
        "7",
        "-7",
        "--python",
        "--pyth",
        "--json",
        "--full-paths",
        "--c-lines",
    ),
    *("--python-only", "--no-lines", "--native-only", "--watch"),
    *("core", "", "--", "--color", "never", "--nothing", "--thread=7", "--help", "-h", "٣"),
)
"""What command lines of up to three words are made of."""
MODULES = ("click", "inspect", "pathlib", "dataclasses", "json", "threading")
"""What takes a millisecond to import, or many."""


def by_click(arguments: list[str]) -> dict[str, object] | None:
    """The values of the parameters; None for a command line that is wrong, or that click answers itself."""
    try:
        with bt_command.bt.make_context("bt", list(arguments)) as context:
            bt_command.refuse_contradictions(context)
            return context.params
    except (click.ClickException, click.exceptions.Exit):
        return None


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_values_are_those_of_click(count: int, capsys: pytest.CaptureFixture[str]) -> None:
    read = 0
    for words in itertools.product(WORDS, repeat=count):
        values = quick.values_of(["bt", *words], {})
        if values is not None:
            assert values == by_click(list(words)), words
            read += 1
    assert bool(read) == bool(count)


@pytest.mark.parametrize("arguments", [["explain", "123"], ["bt"], ["bt", "123", "124"], ["--help"], []])
def test_the_rest_is_left_to_click(arguments: list[str]) -> None:
    assert quick.values_of(arguments, {}) is None


@pytest.mark.parametrize("variable", ["_JITUNWIND_COMPLETE", "JITUNWIND_DEBUG_DIR"])
def test_variables_of_clicks_are_left_to_it(variable: str) -> None:
    assert quick.values_of(["bt", "123"], {variable: "x"}) is None


def test_what_takes_long_to_import_is_not_imported() -> None:
    """-S: an editable install's finder imports pathlib."""
    code = f"import sys; sys.path[:0] = {sys.path!r}; before = set(sys.modules); from jitunwind.cli import main\n"
    code += "try: main()\nexcept SystemExit: print(*sorted(set(sys.modules) - before), file=sys.stderr)"
    command = [sys.executable, "-S", "-c", code, "bt", str(os.getpid())]
    done = subprocess.run(command, capture_output=True, text=True, env=plain_environment(), check=False)
    assert f"Process {os.getpid()}" in done.stdout, done.stderr
    imported = done.stderr.splitlines()[-1].split()
    assert "jitunwind.stacks.library" in imported
    assert not set(MODULES) & set(imported)
