"""What is wrong with a command line, in this command's style, with what was probably meant."""

import re
from collections.abc import Iterable

import click

_MOST = 3
_OTHER_NAMES = {
    **dict.fromkeys(("attach", "debug", "lldb"), "gdb"),
    **dict.fromkeys(("backtrace", "core", "remote", "stack", "stacks", "threads", "where"), "bt"),
    **dict.fromkeys(("cflags", "pkg-config"), "agent"),
    **dict.fromkeys(("disasm", "html", "list", "show", "view"), "explain"),
    **dict.fromkeys(("exec", "launch", "start"), "run"),
    **dict.fromkeys(("lint", "verify"), "check"),
    **dict.fromkeys(("publish",), "enable"),
    **dict.fromkeys(("flamegraph", "perf", "profile", "sample", "top"), "record"),
    **dict.fromkeys(("save", "snapshot"), "dump"),
    **dict.fromkeys(("step", "test", "validate"), "audit"),
}
"""Verbs by the names that other tools, or other people, have for them."""


class WrongUsage(click.UsageError):
    """A usage error that says itself what to try."""

    def __init__(self, message: str, hint: str, context: click.Context | None = None) -> None:
        super().__init__(message, context)
        self.hint = hint


def alike(typed: str, known: Iterable[str]) -> list[str]:
    """Those of `known` that somebody may have meant who typed that, the most probable first."""
    from difflib import get_close_matches  # verbs start faster without it

    known = sorted(known)
    swapped = [each for each in known if sorted(each) == sorted(typed)]
    return list(dict.fromkeys([*swapped, *get_close_matches(typed, known)]))[:_MOST]


def no_such_verb(typed: str, verbs: Iterable[str], context: click.Context) -> WrongUsage:
    """The error for a verb that there is not."""
    verbs = list(verbs)
    meant = [f"jitunwind {each}" for each in alike(typed, verbs)]
    other = _OTHER_NAMES.get(typed.lower())
    if other in verbs and not meant:
        meant = [f"jitunwind {other}"]
    if not meant and re.fullmatch(r"\d+", typed):
        meant = [f"jitunwind bt {typed}"]
    hint = " or ".join(meant) or f"one of {', '.join(verbs)}"
    return WrongUsage(f"there is no verb {typed}", f"{hint}; jitunwind --help has more", context)


def no_such_option(typed: str, context: click.Context) -> WrongUsage:
    """The error for an option that the verb of `context` has not."""
    known = [
        name for each in context.command.get_params(context) for name in (*each.opts, *each.secondary_opts)
    ]
    options = [name for name in known if name.startswith("-")]
    meant = " or ".join(alike(typed, options))
    more = f"{context.command_path} --help"
    hint = f"{meant}; {more} has all options" if meant else more
    return WrongUsage(f"{context.command_path} has no option {typed}", hint, context)


def in_words(error: click.ClickException) -> tuple[str, str]:
    """What is wrong, and what to try."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    path = context.command_path if context is not None else "jitunwind"
    if isinstance(error, click.NoSuchOption) and context is not None:
        error = no_such_option(error.option_name, context)
    hint = error.hint if isinstance(error, WrongUsage) else f"{path} --help"
    if isinstance(error, click.MissingParameter) and error.param is not None and context is not None:
        usage = " ".join(context.get_usage().removeprefix("Usage:").split())
        if isinstance(error.param, click.Option):
            usage += f" {_name(error.param)} {error.param.metavar}"
        return f"{_name(error.param)} is missing", f"{usage}; {hint} has more"
    message = error.message.removesuffix(".")
    if isinstance(error, click.BadParameter) and error.param is not None:
        message = re.sub(r"is not in the range x>=(\d+)$", r"is too small: \1 or more", message)
        return f"{_name(error.param)}: {message}", hint
    too_many = re.match(r"Got unexpected extra arguments? \((.*)\)$", message)
    if too_many:
        return f"too many arguments: {too_many[1]} is left over", hint
    if message[:1].isupper() and message[1:2].islower():
        message = message[0].lower() + message[1:]
    return message, hint


def _name(parameter: click.Parameter) -> str:
    """As it stands in the usage."""
    if isinstance(parameter, click.Argument):
        return parameter.metavar or str(parameter.name).upper()
    return max(parameter.opts, key=len)
