"""A process beside jitunwind that lets GDB's target go on when GDB has ended, also if jitunwind is killed.

`Guarded` is for a GDB that answers and ends (`jitunwind bt`); the guardian starts it, and ends it if jitunwind does not
live to see its answer. `guard_this_process` is for the GDB that this process is about to become (`jitunwind gdb`).
"""

import contextlib
import json
import os
import select
import signal
import subprocess
from collections.abc import Collection, Iterator, Sequence
from types import FrameType, TracebackType

from jitunwind.memory.stopping import Standing

_READ_SIZE = 4096
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Guarded:
    """A GDB that a guardian runs."""

    def __init__(
        self,
        command: Sequence[str],
        targets: Sequence[Standing],
        stdout: int,
        stderr: int,
        pass_fds: Sequence[int],
    ) -> None:
        """Start the guardian, which runs `command` and lets `targets` go on afterwards. `stdout`, `stderr` and
        `pass_fds` are descriptors for GDB. The guardian is forked: call this before any thread is started."""
        self._targets = targets
        control, self._control = os.pipe()
        self._result, result = os.pipe()
        kept = {control, result, stdout, stderr, *pass_fds}
        self._guardian = _fork_guardian(targets, kept)
        if self._guardian == 0:
            with _ending_here():
                # GDB holds `result`, too: who has read it to its end knows that both have ended.
                _serve(command, targets, stdout, stderr, (result, *pass_fds), control)
        os.close(control)
        os.close(result)

    def __enter__(self) -> "Guarded":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        os.close(self._result)
        with contextlib.suppress(ChildProcessError):  # SIGCHLD is ignored: nobody needs to wait
            os.waitpid(self._guardian, 0)

    def kill(self) -> None:
        """End GDB at once; `wait` returns soon."""
        if self._control >= 0:
            os.close(self._control)
            self._control = -1

    def wait(self) -> int | None:
        """GDB's exit status, negative for a signal; None if the guardian has not lived to see it. OSError where GDB
        cannot be started. The targets go on when this returns."""
        said = b"".join(iter(lambda: os.read(self._result, _READ_SIZE), b""))
        try:
            status, failure = json.loads(said)
        except ValueError:
            for target in self._targets:
                target.undo(None)
            return None
        if failure is not None:
            raise OSError(failure, os.strerror(failure))
        return int(status)


def guard_this_process(targets: Sequence[Standing]) -> int | None:
    """Let `targets` go on when this process, which becomes a GDB by execve(2), has ended.

    Gives the eventfd(2) on which the GDB tells that it ends by itself (`load.py`). None where this cannot be done:
    some containers forbid pidfd_open(2).
    """
    try:
        ended = os.pidfd_open(os.getpid())
    except OSError:
        return None
    told = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    child = _fork_guardian(targets, {told, ended})
    if child == 0:
        with _ending_here():
            if os.fork() == 0:  # no child of GDB's, which waits for any
                select.select([ended], [], [])
                _let_go_on(targets, 0 if _is_set(told) else None)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(child, 0)
    os.close(ended)
    os.set_inheritable(told, True)
    return told


def _fork_guardian(targets: Sequence[Standing], kept: Collection[int]) -> int:
    """As os.fork. The new process is in a session of its own, stays when it is told to end, and has no descriptors
    but `kept` and those of `targets`: it keeps no pipe of jitunwind's open."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    child = os.fork()
    if child == 0:
        try:
            _stand_apart({0, 1, 2, *kept, *(target.descriptor for target in targets)}, kept)
        except BaseException:
            os._exit(1)  # this is no second jitunwind
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return child


def _stand_apart(open_here: Collection[int], kept: Collection[int]) -> None:
    os.setsid()
    for number in _ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stay)  # which GDB, unlike SIG_IGN, does not inherit
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # if it is ignored, nobody learns how GDB ended
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        if descriptor not in kept:
            os.dup2(null, descriptor)
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in open_here:
            with contextlib.suppress(OSError):  # that of the folder itself
                os.close(int(name))


def _stay(number: int, frame: FrameType | None) -> None:
    pass


@contextlib.contextmanager
def _ending_here() -> Iterator[None]:
    """End this process behind the block, whatever happens in it."""
    try:
        yield
    finally:
        os._exit(0)


def _serve(
    command: Sequence[str],
    targets: Sequence[Standing],
    stdout: int,
    stderr: int,
    pass_fds: Sequence[int],
    control: int,
) -> None:
    """What the guardian does: the result goes to the first of `pass_fds`."""
    answer: list[int | None]
    try:
        gdb = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            pass_fds=pass_fds,
            start_new_session=True,
        )
    except OSError as error:
        answer = [None, error.errno]
    else:
        _kill_if_told(gdb, control)
        answer = [gdb.wait(), None]
        _let_go_on(targets, gdb.returncode)
    os.write(pass_fds[0], json.dumps(answer).encode())


def _kill_if_told(gdb: "subprocess.Popen[bytes]", control: int) -> None:
    """Wait until GDB has ended. If jitunwind closes its end of `control`, or ends, kill GDB and what it has started.

    The kernel detaches it then. It is not told to end by a SIGTERM: while it attaches, it makes a SIGINT for the
    process of that, or ends without detaching (GDB 13.1, default_quit_handler).
    """
    ended = os.pidfd_open(gdb.pid)
    if ended not in select.select([ended, control], [], [])[0]:
        os.killpg(gdb.pid, signal.SIGKILL)  # it leads a session


def _let_go_on(targets: Sequence[Standing], status: int | None) -> None:
    for target in targets:
        target.undo(status)


def _is_set(event: int) -> bool:
    try:
        return os.eventfd_read(event) > 0
    except BlockingIOError:
        return False
