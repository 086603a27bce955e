"""Whether threads that were ready to run were on a processor, or waited for one.

The state R of /proc says both. In come threads of a process and the time since which somebody looks at them, out comes
for each whether it had waited in the queue for longer than that.
"""

import os
import time
from collections.abc import Sequence
from contextlib import suppress

_SLACK_SECONDS = 0.0001
"""Between the time when who looks got a processor, from the thread perhaps, and the time that it gives."""
_WAITED = 1
"""The field of /proc/PID/task/TID/schedstat that has the nanoseconds for which the thread has waited for a processor
(Linux Documentation/scheduler/sched-stats.rst). It grows when the thread gets one."""


class RunQueue:
    """Of the threads of process `pid`. Where the kernel keeps no such statistics, no thread waits."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._files: dict[int, int] = {}
        self._waited: dict[int, int] = {}
        self._since = 0.0

    def begin(self, tids: Sequence[int], since: float) -> None:
        """These are looked at now. `since`: when that began, by time.perf_counter: who has had to wait only since then
        has given its processor to the one who looks."""
        for tid in [tid for tid in self._files if tid not in tids]:
            os.close(self._files.pop(tid))
        self._since = since
        self._waited = {tid: self._nanoseconds(tid) for tid in tids}

    def has_waited(self, tid: int) -> bool:
        """Whether it was waiting for a processor when the look began: to be asked as soon as it has been let go."""
        waited = (self._nanoseconds(tid) - self._waited.get(tid, 0)) / 1e9
        return waited > time.perf_counter() - self._since + _SLACK_SECONDS

    def _nanoseconds(self, tid: int) -> int:
        with suppress(OSError, ValueError, IndexError):
            if tid not in self._files:
                self._files[tid] = os.open(f"/proc/{self._pid}/task/{tid}/schedstat", os.O_RDONLY)
            return int(os.pread(self._files[tid], 128, 0).split()[_WAITED])
        return 0

    def close(self) -> None:
        for file in self._files.values():
            os.close(file)
        self._files.clear()
