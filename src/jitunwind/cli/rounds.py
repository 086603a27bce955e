"""Several looks: at several processes and cores, or at processes again and again.

In come targets and how to look at one, out go pages or JSON, and an exit status. What cannot be looked at is said, and
does not keep the others from being shown.
"""

import contextlib
import json
import os
import select
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

import click

from jitunwind.cli.ending import of_the_system, saying_if_ended
from jitunwind.cli.output import (
    UNUSABLE,
    folded,
    is_coloured,
    print_error,
    print_note,
    print_warning,
    progress,
)
from jitunwind.cli.verb import plain_core
from jitunwind.errors import JitunwindError, NoSuchProcess
from jitunwind.memory.live import is_number, process_has_ended

_HOME, _ERASE_REST_OF_LINE, _ERASE_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
_LONGEST_POLL_SECONDS = 3600.0
_COMPARED = ("kind", "name", "function", "pc", "sp", "file", "line")
"""Of a frame: where one of these is another, it has changed."""


class Seen(Protocol):
    """The stacks of one process or core; `document` is what `bt --json` prints. `status`: 0, or why not."""

    @property
    def stacks(self) -> dict[str, Any]: ...
    @property
    def document(self) -> dict[str, Any]: ...
    @property
    def status(self) -> int: ...


class Look(Protocol):
    """How to look at one, and how to print what comes of it."""

    @property
    def coloured(self) -> bool: ...
    def at(self, text: str) -> Seen: ...
    def page(self, seen: Any) -> str: ...


def run(targets: Sequence[str], look: Look, as_json: bool, seconds: float | None) -> int:
    """Look at each of `targets`: once, or again every `seconds`; the exit status.

    A core, which does not change, is shown once. JitunwindError, if there is nothing else to be looked at again."""
    targets = list(dict.fromkeys(targets))
    if seconds is None:
        return _once(targets, look, as_json)
    if not any(map(is_number, targets)):
        raise JitunwindError(f"--watch is for processes, and {targets[0]} is none", "leave --watch away")
    return _Watch(seconds, targets, look, as_json).run()


def _once(targets: Sequence[str], look: Look, as_json: bool) -> int:
    """Look at each, and print it as soon as it is there; the worst exit status. With `as_json` a list of documents."""
    worst, documents, separator = 0, list[dict[str, Any]](), ""
    for target in targets:
        with progress(f"reading the stacks of {target}"):
            found = _tried(look, target)
        documents.append(_document(target, found))
        if isinstance(found, JitunwindError):
            worst = UNUSABLE
            print_error(str(found), found.hint)
            continue
        worst = max(worst, found.status)
        if not as_json:
            click.echo(separator + look.page(found), color=look.coloured)
            separator = "\n"
        for warning in found.stacks["warnings"]:
            print_warning(f"{target}: {warning}")
    if as_json:
        click.echo(json.dumps(documents, indent=2))
    return worst


def _tried(look: Look, target: str) -> Seen | JitunwindError:
    try:
        with saying_if_ended(target), plain_core(target) as plain:
            return look.at(plain)
    except JitunwindError as error:
        return error
    except OSError as error:
        return JitunwindError(*of_the_system(error))


def _document(target: str, found: Seen | JitunwindError) -> dict[str, Any]:
    return {"target": target, "error": str(found)} if isinstance(found, JitunwindError) else found.document


_Found = Mapping[str, Seen | JitunwindError]


class _Watch:
    """Round after round, of the processes that have not ended; cores have their place in the first."""

    def __init__(self, seconds: float, targets: list[str], look: Look, as_json: bool) -> None:
        self._seconds, self._look, self._as_json = seconds, look, as_json
        self._left, self._are_several = list(filter(is_number, targets)), len(targets) > 1
        self._targets = targets
        self._cores: dict[str, Seen | JitunwindError] = {}
        self._is_first, self._status = True, 0
        self._before: dict[str, dict[int, list[tuple[Any, ...]]]] = {}
        """What was compared of the frames in the last round, the outermost first, by target and thread."""
        self._said: set[str] = set()
        self._redraws = not as_json and sys.stdout.isatty() and is_coloured("auto", sys.stdout)

    def run(self) -> int:
        """Until no process is left."""
        with contextlib.closing(_Ends(self._left)) as ends:
            due = 0.0
            while found := self._round():
                self._print(found)
                now = time.monotonic()
                due = max(due + self._seconds, now) if due else now + self._seconds
                for target in ends.until(due, self._left):
                    self._say_end(target)
        return self._status

    def _round(self) -> _Found:
        """What each process that is left gives; nothing, where none is."""
        targets = self._targets if self._is_first else self._left
        found = {target: _tried(self._look, target) for target in targets}
        for target, each in list(found.items()):
            if not isinstance(each, JitunwindError):
                self._mark(target, each.stacks["threads"])
            elif self._is_first:
                self._status = UNUSABLE
                print_error(str(each), each.hint)
                if target in self._left:
                    self._left.remove(target)
                del found[target]
            elif isinstance(each, NoSuchProcess):
                del found[target]
                self._say_end(target)
        if self._is_first:
            self._cores = {target: each for target, each in found.items() if not is_number(target)}
        elif self._redraws and found:
            found = self._cores | found
        self._is_first = False
        return found

    def _say_end(self, target: str) -> None:
        self._left.remove(target)
        print_note(f"process {target} has ended")

    def _mark(self, target: str, threads: Sequence[dict[str, Any]]) -> None:
        """Put `changed` into each frame: whether it, or one that it was called from, is another than before; None in
        the first round."""
        before, now = self._before.get(target), dict[int, list[tuple[Any, ...]]]()
        for thread in threads:
            frames = thread["frames"][::-1]
            now[thread["tid"]] = [tuple(frame[each] for each in _COMPARED) for frame in frames]
            had = [] if before is None else before.get(thread["tid"], [])
            same = 0
            for one, other in zip(now[thread["tid"]], had, strict=False):
                if one != other:
                    break
                same += 1
            for number, frame in enumerate(frames):
                frame["changed"] = None if before is None else number >= same
        self._before[target] = now

    # What is printed

    def _print(self, found: _Found) -> None:
        now = datetime.now().astimezone()
        if self._as_json:
            time_now = now.isoformat(timespec="milliseconds")
            documents = [{"time": time_now} | _document(*each) for each in found.items()]
            click.echo(json.dumps(documents if self._are_several else documents[0]))
        at = f"{now:%Y-%m-%d %H:%M:%S}.{now.microsecond // 1000:03d}"
        every = f"--- {at}, every {self._seconds:g} s; * marks what has changed ---"
        pages = [self._look.page(each) for each in found.values() if not isinstance(each, JitunwindError)]
        if self._redraws:
            lines = "\n\n".join([every, *pages, *self._complaints(found)]).split("\n")
            click.echo(_redrawn([line for long in lines for line in folded(long, sys.stdout).split("\n")]))
            return
        if not self._as_json:
            click.echo("\n\n".join([every, *pages]) + "\n", color=self._look.coloured)
        for complaint in self._complaints(found):
            if complaint not in self._said:  # else each round repeats it
                self._said.add(complaint)
                print_warning(complaint)

    def _complaints(self, found: _Found) -> list[str]:
        said = []
        for target, each in found.items():
            of = f"{target}: " if self._are_several else ""
            errors = [str(each)] if isinstance(each, JitunwindError) else each.stacks["warnings"]
            said += [f"{of}{error}" for error in errors]
        return said


def _redrawn(lines: Sequence[str]) -> str:
    """The lines in the place of what the terminal shows, as many as it has room for."""
    room = max(shutil.get_terminal_size().lines - 1, 2)
    if len(lines) > room:
        lines = [
            *lines[: room - 1],
            f"… {len(lines) - room + 1} more lines: make the terminal higher, or take a pipe",
        ]
    return _HOME + "\n".join(f"{line}{_ERASE_REST_OF_LINE}" for line in lines) + _ERASE_BELOW


class _Ends:
    """Tells of processes that end, while it waits (pidfd_open(2))."""

    def __init__(self, targets: Sequence[str]) -> None:
        self._poll = select.poll()
        self._targets: dict[int, str] = {}
        for target in targets:
            with contextlib.suppress(OSError, OverflowError):  # the next look at it says why
                descriptor = os.pidfd_open(int(target))
                self._targets[descriptor] = target
                self._poll.register(descriptor, select.POLLIN)

    def close(self) -> None:
        for descriptor in self._targets:
            os.close(descriptor)

    def until(self, due: float, left: Sequence[str]) -> Iterator[str]:
        """Wait until then, or until all that are left have ended; each that ends meanwhile."""
        while left and (seconds := due - time.monotonic()) > 0:
            for descriptor, _ in self._poll.poll(1000 * min(seconds, _LONGEST_POLL_SECONDS)):
                self._poll.unregister(descriptor)
                os.close(descriptor)
                target = self._targets.pop(descriptor)
                if target in left and process_has_ended(int(target)):
                    yield target
