"""How lines are broken for a terminal."""

import io

import click
import pytest

from jitunwind.cli.output import folded

TEXT = "\n".join(
    (
        click.style("/usr/lib/x86_64-linux-gnu/libz.so.1.2.13: 123 FDEs, 18,391 instructions", fg="green"),
        "  a line that is indented   and has columns, and is longer than forty",
        "short",
        "",
    )
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", [40, 60, 200])
def test_lines_are_broken_between_words_and_keep_their_style(monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    lines = folded(TEXT, Terminal()).split("\n")
    assert all(len(click.unstyle(line)) <= max(width, 41) for line in lines)  # the path is a word of 41
    assert "".join(TEXT.split()).replace("\x1b[32m", "").replace("\x1b[0m", "") == "".join(
        click.unstyle(line).replace(" ", "") for line in lines
    )
    green = [line for line in lines if line.startswith("\x1b[32m")]
    assert all(line.endswith("\x1b[0m") for line in green)
    assert len(green) == {40: 2, 60: 2, 200: 1}[width]


def test_nothing_is_broken_off_a_terminal(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert folded(TEXT, io.StringIO()) == TEXT
