"""The usual command lines of `bt`, read without click: importing it takes as long as all else that `bt` does.

click's command (`bt_command`) is what `bt` is. This reads some of its options, and leaves every other command line to
it: a wrong one, with an option that is not in the table here, with a core, or with several processes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

_FLAGS = {
    "--python": "python",
    "--python-only": "python_only",
    "--json": "as_json",
    "--full-paths": "full_paths",
    "--no-lines": "no_lines",
}
"""Options without a value, none of which contradicts another one, by the name of the parameter that they set."""
_PROCESS = ("-p", "--pid")
_DEFAULTS: dict[str, Any] = {
    **dict.fromkeys((*_FLAGS.values(), "native_only", "c_lines", "debuginfod"), False),
    **dict.fromkeys(("exe", "thread", "watch", "gdb_path")),
    "color": "auto",
    "debug_dirs": (),
}
_COMPLETES, _DEBUG_DIRS = "_JITUNWIND_COMPLETE", "JITUNWIND_DEBUG_DIR"
"""Variables that click reads: with one of them set the command line is its own."""


def values_of(arguments: Sequence[str], environment: Mapping[str, str]) -> dict[str, Any] | None:
    """The values of `bt`'s parameters, as click has them; None for what is left to it."""
    if arguments[:1] != ["bt"] or _COMPLETES in environment or _DEBUG_DIRS in environment:
        return None
    from jitunwind.memory.live import is_number  # other verbs start faster without it

    values, rest = dict(_DEFAULTS), list(arguments[1:])
    while rest:
        word = rest.pop(0)
        if word in _FLAGS:
            values[_FLAGS[word]] = True
        elif word == "--thread" and rest and is_number(rest[0]):
            values["thread"] = int(rest.pop(0))
        elif "target" in values:
            return None
        elif word in _PROCESS and rest and is_number(rest[0]):
            values["target"] = (rest.pop(0),)
        elif is_number(word):
            values["target"] = (word,)
        else:
            return None
    return values if "target" in values else None


def work(values: dict[str, Any]) -> Callable[[], int]:
    """What is to be done for `bt` with these values."""
    from jitunwind.cli.bt import show
    from jitunwind.cli.ending import saying_if_ended
    from jitunwind.cli.streams import check_stdout

    def look() -> int:
        check_stdout()
        with saying_if_ended(*values["target"]):
            return show(**values)

    return look
