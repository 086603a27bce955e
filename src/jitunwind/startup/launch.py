"""Starting a Python with publishing switched on, from the user's Python: its environment, and why it cannot be."""

import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from jitunwind.errors import CannotStart
from jitunwind.startup import PERF_VARIABLE, RUN_VARIABLE

PACKAGES = Path(__file__).parents[2]
HOOK = Path(__file__).with_name("hook")
_NO_HOOK = "EIS"
"""Python's options with which it heeds neither PYTHONPATH nor sitecustomize."""
_COMMANDS = "cm"
_WITH_VALUE = "WX"
_LONG_WITH_VALUE = "--check-hash-based-pycs"


def search_folders() -> list[str]:
    """The folders that hold jitunwind and iced-x86, for another Python."""
    folders = [str(PACKAGES)]
    iced = importlib.util.find_spec("iced_x86")
    if iced is not None and iced.origin is not None:
        folders.append(str(Path(iced.origin).parents[1]))
    return list(dict.fromkeys(folders))


def environment(before: Mapping[str, str], perf: str | None = None) -> dict[str, str]:
    """What to start a Python with, so that it publishes the JIT code of its program: `before`, with the JIT on
    unless that says otherwise; `perf`: what it writes for perf. `hook/sitecustomize.py` undoes the rest."""
    result = {"PYTHON_JIT": "1", **before}
    if perf is not None:
        result[PERF_VARIABLE] = perf
    result[RUN_VARIABLE] = os.pathsep.join(search_folders())
    result["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HOOK), before.get("PYTHONPATH")]))
    result.pop("JITUNWIND_PYTHONPATH", None)
    if "PYTHONPATH" in before:
        result["JITUNWIND_PYTHONPATH"] = before["PYTHONPATH"]
    return result


def check_arguments(arguments: Sequence[str]) -> None:
    """CannotStart, where Python's own options among `arguments` keep `hook/sitecustomize.py` from being run."""
    for letter in _options(arguments)[0]:
        if letter in _NO_HOOK:
            raise CannotStart(
                f"with -{letter} a Python does not heed what would switch publishing on",
                f"leave -{letter} away, or call jitunwind.enable() in the program",
            )


def script_of(arguments: Sequence[str]) -> str | None:
    """The script among a Python's arguments; None for -c, -m and standard input."""
    letters, rest = _options(arguments)
    if not rest or rest[0] == "-" or (letters and letters[-1] in _COMMANDS):
        return None
    return rest[0]


def _options(arguments: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The letters of Python's own options in front, up to -c or -m, and the arguments behind."""
    letters, place = "", 0
    while place < len(arguments):
        argument = arguments[place]
        if argument == "-" or not argument.startswith("-"):
            break
        place += 1
        if argument == _LONG_WITH_VALUE:
            place += 1
        for index, letter in enumerate("" if argument.startswith("--") else argument[1:], 2):
            letters += letter
            if letter in _COMMANDS:
                return letters, arguments[place:]
            if letter in _WITH_VALUE:
                place += index == len(argument)
                break
    return letters, arguments[place:]
