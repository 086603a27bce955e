"""A file's functions judged in several processes, each function within a time, whatever happens to a process.

In comes a `Program`; out comes what `check/rounds.judge_all` runs its jobs by. `check/files.py` calls it. The
processes are forked, so they share the file's bytes and all that is known of it; an interruption is the
parent's business, which ends them. A function that takes too long, or at which a process dies, is `unknown`.
"""

import multiprocessing
import resource
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType, TracebackType

from jitunwind.check.functions import Program, Report
from jitunwind.check.rounds import Job

SECONDS = 20.0
"""Of processor time for one function; the slowest of 200,000 in libraries of up to 2 MB took 1.2."""
TOOK_LONG = f"not judged within {SECONDS:.0f} s of processor time"
TOOK_MEMORY = "not judged within the memory of one process"
DIED = "the process that judged it ended"
_MEMORY = 4 << 30
"""Bytes that one process may have (RLIMIT_DATA)."""
_CHUNK = 32
_FEW = 2 * _CHUNK
"""As many functions are judged sooner than a process is forked."""
_INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM)
_GRACE = 10.0
"""Times `SECONDS` until a process that does not answer is ended: it may have to share its processor."""


class TookTooLong(Exception):
    """The time is up."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises TookTooLong in the body once it has used `seconds` of processor time. Main thread only (setitimer(2))."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TookTooLong

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def judge(program: Program, job: Job, never: frozenset[int]) -> Report:
    """The report on one function, within `SECONDS`."""
    try:
        with time_limit(SECONDS):
            return program.judge(*job, never)
    except TookTooLong:
        return program.give_up(job[0], TOOK_LONG)
    except MemoryError:
        return program.give_up(job[0], TOOK_MEMORY)


class Workers:
    """`processes` children that judge functions of `program`; `run` is a `rounds.Run`. Ended on leaving."""

    def __init__(self, program: Program, processes: int) -> None:
        self._program, self._processes = program, processes
        self._children: dict[Connection, BaseProcess] = {}

    def __enter__(self) -> "Workers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe in list(self._children):
            self._end(pipe)

    def run(self, jobs: Sequence[Job], never: frozenset[int]) -> Iterator[Report]:
        """The reports on `jobs`, in any order."""
        few = jobs if self._processes == 1 else jobs[:_FEW]
        for job in few:  # what is learnt of instructions here, every child knows
            yield judge(self._program, job, never)
        rest = jobs[len(few) :]
        waiting = deque(rest[start : start + _CHUNK] for start in range(0, len(rest), _CHUNK))
        at_work: dict[Connection, list[Job]] = {}
        idle = list(self._children)
        while waiting or at_work:
            while waiting and len(at_work) < self._processes:
                pipe = idle.pop() if idle else self._fork()
                at_work[pipe] = list(waiting.popleft())
                if not self._send(pipe, at_work[pipe], never):
                    yield from self._lost(pipe, at_work.pop(pipe), waiting)
            ready = wait(list(at_work), _GRACE * SECONDS)
            # Each report comes by itself, so silence means that one function takes all that time.
            for pipe in [pipe for pipe in at_work if pipe in ready or not ready]:
                try:
                    report = pipe.recv() if ready else None
                except (EOFError, OSError):
                    report = None
                if report is None:
                    yield from self._lost(pipe, at_work.pop(pipe), waiting)
                    continue
                left = [job for job in at_work[pipe] if job[0] != report.index]
                at_work[pipe] = left
                if not left:
                    del at_work[pipe]
                    idle.append(pipe)
                yield report

    @staticmethod
    def _send(pipe: Connection, jobs: list[Job], never: frozenset[int]) -> bool:
        try:
            pipe.send((jobs, never))
        except OSError:
            return False
        return True

    def _lost(self, pipe: Connection, left: list[Job], waiting: deque[Sequence[Job]]) -> Iterator[Report]:
        """The child is gone, or of no use: the first of its jobs has done that, the others can still be done."""
        self._end(pipe)
        yield self._program.give_up(left[0][0], DIED)
        if left[1:]:
            waiting.append(left[1:])

    def _fork(self) -> Connection:
        context = multiprocessing.get_context("fork")
        # No interruption between the fork and the note of it, nor before the child ignores them.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPTIONS)
        ours, theirs = context.Pipe()
        child = context.Process(
            target=_work, args=(self._program, theirs, [*self._children, ours]), daemon=True
        )
        child.start()
        theirs.close()
        self._children[ours] = child
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return ours

    def _end(self, pipe: Connection) -> None:
        child = self._children.pop(pipe)
        child.kill()
        child.join()
        pipe.close()


def _work(program: Program, pipe: Connection, parents: Sequence[Connection]) -> None:
    """In a child: judge what the parent sends until it has gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _INTERRUPTIONS)
    for end in parents:  # else the children keep each other's pipes open
        end.close()
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    limit = _MEMORY if most == resource.RLIM_INFINITY else min(_MEMORY, most)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, most))
    try:
        while True:
            jobs, never = pipe.recv()
            for job in jobs:
                pipe.send(judge(program, job, never))
    except (EOFError, OSError):
        return
