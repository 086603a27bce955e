"""What `jitunwind enable PID` and `disable PID` have a process execute: it switches publishing on or off there, and
answers.

It is executed by its text, with a call of `begin` put behind it; see sys.remote_exec. That happens in the main
thread between any two of its instructions: in the middle of an import perhaps, or with a lock in its hands. So the
work is done in a thread of its own, which waits for such things as every thread does.

The answer: `begun`, and then, ended by a zero byte, lines: `done`, `already` or `off`, how many regions are
published, or were, and the files that are written for perf: the new ones, and all; or `failed`, what is wrong, and
what to do.
"""

import _thread
import posix
import sys


def begin(what: str, search: list[str], finder: str, answer: str, perf: str | None) -> None:
    """`what`: enable or disable; `search`: folders of jitunwind and iced-x86; `finder`: the path of finder.py;
    `answer`: a named pipe; `perf`: what to write for perf."""
    try:
        channel = posix.open(answer, posix.O_WRONLY | posix.O_NONBLOCK)
        posix.write(channel, b"begun\n")
    except OSError:
        return  # nobody waits for it any more
    try:
        _thread.start_new_thread(_answer, (channel, what, search, finder, perf))
    except RuntimeError as error:  # the process is about to end
        posix.write(channel, f"failed\n{error}\n\n\0".encode())
        posix.close(channel)


def _answer(channel: int, what: str, search: list[str], finder: str, perf: str | None) -> None:
    try:
        said = _enable(search, finder, perf) if what == "enable" else _disable()
    except BaseException as error:
        hint = getattr(error, "hint", None)
        problem = f"{type(error).__name__}: {error}" if hint is None else str(error)
        said = "\n".join(["failed", " ".join(problem.split()), " ".join((hint or "").split())])
    try:
        posix.write(channel, f"{said}\n\0".encode(errors="replace"))
    except OSError:
        pass
    finally:
        posix.close(channel)


def _enable(search: list[str], finder: str, perf: str | None) -> str:
    if not sys._jit.is_enabled():  # type: ignore[attr-defined]
        return "off"
    names = {"__name__": "jitunwind.startup.finder", "__file__": finder}
    with open(finder, encoding="utf-8") as source:
        exec(compile(source.read(), finder, "exec"), names)
    names["install"](search)  # type: ignore[operator]
    import jitunwind

    word = "already" if jitunwind.is_enabled() else "done"
    before = _files_for_perf()
    jitunwind.enable(perf)
    files = _files_for_perf()
    new = [file for file in files if file not in before]
    return "\n".join([word, str(jitunwind.statistics().regions), " ".join(new), " ".join(files)])


def _files_for_perf() -> list[str]:
    follow = sys.modules.get("jitunwind.jits.cpython.inside.follow")
    return getattr(follow, "files_for_perf", list)()


def _disable() -> str:
    jitunwind = sys.modules.get("jitunwind")  # a process that has not imported it publishes nothing
    if jitunwind is None or not jitunwind.is_enabled():
        return "already\n0"
    regions = jitunwind.statistics().regions
    jitunwind.disable()
    return f"done\n{regions - jitunwind.statistics().regions}"
