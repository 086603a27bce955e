"""What `jitunwind enable PID` has a process execute: it switches publishing on there, and answers.

It is executed by its text, with a call of `begin` put behind it; see sys.remote_exec. That happens in the main
thread between any two of its instructions: in the middle of an import perhaps, or with a lock in its hands. So the
work is done in a thread of its own, which waits for such things as every thread does.

The answer: `begun`, and then, ended by a zero byte, a line that is `enabled`, `off` or `failed`, a line of what is
wrong and a line of what to do.
"""

import _thread
import posix
import sys


def begin(search: list[str], finder: str, answer: str) -> None:
    """`search`: folders of jitunwind and iced-x86; `finder`: the path of finder.py; `answer`: a named pipe."""
    try:
        channel = posix.open(answer, posix.O_WRONLY | posix.O_NONBLOCK)
        posix.write(channel, b"begun\n")
    except OSError:
        return  # nobody waits for it any more
    try:
        _thread.start_new_thread(_answer, (channel, search, finder))
    except RuntimeError as error:  # the process is about to end
        posix.write(channel, f"failed\n{error}\n\n\0".encode())
        posix.close(channel)


def _answer(channel: int, search: list[str], finder: str) -> None:
    try:
        said = _enable(search, finder)
    except BaseException as error:
        hint = getattr(error, "hint", None)
        what = f"{type(error).__name__}: {error}" if hint is None else str(error)
        said = "\n".join(["failed", " ".join(what.split()), " ".join((hint or "").split())])
    try:
        posix.write(channel, f"{said}\n\0".encode(errors="replace"))
    except OSError:
        pass
    finally:
        posix.close(channel)


def _enable(search: list[str], finder: str) -> str:
    if not sys._jit.is_enabled():  # type: ignore[attr-defined]
        return "off"
    names = {"__name__": "jitunwind.startup.finder", "__file__": finder}
    with open(finder, encoding="utf-8") as source:
        exec(compile(source.read(), finder, "exec"), names)
    names["install"](search)  # type: ignore[operator]
    import jitunwind

    jitunwind.enable()
    return "enabled"
