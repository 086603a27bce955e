"""Programs in the situations that stacks are read in: situations.c, and whoever else says "ready"."""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jitunwind.stacks.model import Frame, Stacks

SOURCE = Path(__file__).with_name("situations.c")


@contextmanager
def started(
    command: Sequence[object], environment: dict[str, str] | None = None, **options: Any
) -> Iterator[int]:
    """The pid of a program that says "ready"; killed at the end."""
    process = subprocess.Popen(
        list(map(str, command)),
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process.pid
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def only(found: Stacks) -> tuple[Frame, ...]:
    """The frames of the only thread."""
    (thread,) = found.threads
    return thread.frames


def names(frames: Sequence[Frame]) -> list[str]:
    return [frame.name for frame in frames]
