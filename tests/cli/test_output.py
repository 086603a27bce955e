"""What whoever waits is told."""

import threading

import pytest

from jitunwind.cli import output


class Heard:
    """A stream that says when something was written to it."""

    def __init__(self) -> None:
        self.text, self.heard = "", threading.Event()

    def write(self, text: str) -> int:
        self.text += text
        if self.text.endswith("\n"):
            self.heard.set()
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return False


def test_who_waits_for_long_is_told_what_for_and_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Heard()
    monkeypatch.setattr(output, "PATIENCE", 0.01)
    monkeypatch.setattr("sys.stderr", heard)
    with output.reporting("reading 12") as note:
        note(3_000, 59_000)
        heard.heard.clear()
        assert heard.heard.wait(60)
    assert heard.text.splitlines()[-1] == "reading 12: 0 s, 3,000 of 59,000"


def test_what_is_quick_says_nothing_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Heard()
    monkeypatch.setattr("sys.stderr", heard)
    with output.reporting("reading 12"):
        pass
    assert heard.text == ""
