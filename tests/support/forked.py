"""Many `jitunwind` commands out of one process: each runs in a fork of it, with descriptors of its own.

As a program this is the process that forks. It imports the command once, takes a job as a line of JSON, and answers
with the exit status. Its environment, that is its encoding, is the one of all its commands.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).parents[2]
CLOSED, BROKEN_PIPE = "closed", "broken pipe"
"""What stdout can be, besides a path."""
_PATIENCE_SECONDS = 120

Done = subprocess.CompletedProcess[bytes]


class Forked:
    """The commands of one environment. They write to files in `folder`."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            env={**environment, "PYTHONPATH": str(ROOT / "src")},
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "Forked":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.communicate("")

    def __call__(
        self, *arguments: object, stdout: str | None = None, columns: int = 80, largest: int | None = None
    ) -> Done:
        """Run `jitunwind`. `stdout`: a path, CLOSED or BROKEN_PIPE; None: captured. `largest`: bytes that a file may
        have."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        captured, stderr = self._folder / "stdout", self._folder / "stderr"
        for file in (captured, stderr):
            file.write_bytes(b"")
        job = {
            "arguments": [str(each) for each in arguments],
            "stdout": stdout or str(captured),
            "stderr": str(stderr),
            "columns": columns,
            "largest": largest,
        }
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        status = int(self._server.stdout.readline())
        return Done(job["arguments"], status, captured.read_bytes(), stderr.read_bytes())


def _serve() -> None:
    from jitunwind.cli.app import cli

    for name in cli.list_commands(None):  # type: ignore[arg-type]
        cli.get_command(None, name)  # type: ignore[arg-type]
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _become(**json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _become(arguments: list[str], stdout: str, stderr: str, columns: int, largest: int | None) -> None:
    """What a Python does that was started so, from its start to its end."""
    signal.alarm(_PATIENCE_SECONDS)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(os.open(stderr, os.O_WRONLY), 2)
    encoding, errors = sys.stdout.encoding, sys.stdout.errors
    if stdout == CLOSED:
        sys.stdout = None  # type: ignore[assignment]
        os.close(1)
    else:
        ends = os.pipe() if stdout == BROKEN_PIPE else None
        os.dup2(ends[1] if ends else os.open(stdout, os.O_WRONLY), 1)
        os.closerange(3, 16)
        sys.stdout = open(1, "w", encoding=encoding, errors=errors, closefd=False)  # noqa: SIM115
    if largest is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    os.environ["COLUMNS"] = str(columns)
    sys.argv = ["jitunwind", *(os.fsdecode(each.encode()) for each in arguments)]
    status: object = 0
    try:
        from jitunwind.cli import main

        main()
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
        status = 1
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        status = 120
    os._exit(status if isinstance(status, int) else 0)


if __name__ == "__main__":
    _serve()
