"""A process under ptrace(2): started or attached to, stopped and continued as a whole, stepped by thread.

All threads stand still while one is looked at. The stepping and the stepped process share one processor: a
step is two switches between them, and those are several times slower across processors.
"""

import contextlib
import ctypes
import errno
import os
import signal
import time
from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping, Sequence

from jitunwind.arch import Architecture
from jitunwind.arch.x86_64.registers import X86_64
from jitunwind.audit.steppable import Stop
from jitunwind.errors import NoSuchProcess, NotPermitted, UnreadableMemory
from jitunwind.memory.process import LiveProcess
from jitunwind.memory.stopping import check_can_stop
from jitunwind.stacks.ptrace import DETACH, EVENT_STOP, INTERRUPT, SEIZE, WALL, ptrace

_CONT, _SINGLESTEP, _GETREGS, _SETREGS, _GETEVENTMSG = 7, 9, 12, 13, 0x4201
_GETSIGMASK, _SETSIGMASK = 0x420A, 0x420B
_TRACEFORK, _TRACEVFORK, _TRACECLONE, _TRACEEXEC, _EXITKILL = 0x2, 0x4, 0x8, 0x10, 0x100000
_EVENT_FORK, _EVENT_VFORK, _EVENT_CLONE, _EVENT_EXEC = 1, 2, 3, 4
assert X86_64.linux.traced is not None
_USER_REGS, _DWARF_ORDER, _FLAGS, _ORIGINAL_CALL, _SYSTEM_CALL = X86_64.linux.traced
_NO_SYSTEM_CALL = (1 << 64) - 1
"""In place of a number: no system call is to be started anew."""
_STEPPED = signal.SIGTRAP << 8 | 0x7F
"""What waitpid says of a thread that has run one instruction."""
_FAULTS = (signal.SIGTRAP, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
"""Signals that an instruction raises; the kernel resets their handlers where they are blocked."""
_STOPS = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)


def steps_natively() -> Architecture | None:
    """The architecture of which processes of this machine can be stepped here; None on others."""
    return X86_64 if os.uname().machine == X86_64.name else None


class TracedMemory(LiveProcess):
    """A process's memory without the breakpoints that have been put into it."""

    def __init__(self, pid: int) -> None:
        super().__init__(pid)
        self.replaced: dict[int, bytes] = {}
        """By a breakpoint's address: the byte that stood there."""
        self._places: list[int] = []
        """The same addresses, rising: stacks are read at each step, however many breakpoints there are."""

    def read(self, address: int, size: int) -> bytes:
        data = super().read(address, size)
        inside = self._places[bisect_left(self._places, address) : bisect_left(self._places, address + size)]
        if inside:
            changed = bytearray(data)
            for at in inside:
                changed[at - address : at - address + 1] = self.replaced[at]
            data = bytes(changed)
        return data

    def renew(self) -> None:
        super().renew()
        self.replaced.clear()
        self._places.clear()

    def note(self, address: int, byte: bytes) -> None:
        """A breakpoint has replaced `byte`."""
        self.replaced[address] = byte
        insort(self._places, address)

    def forget(self, address: int) -> bytes | None:
        """What a breakpoint replaced that is to be taken back; None, if there is none."""
        byte = self.replaced.pop(address, None)
        if byte is not None:
            del self._places[bisect_left(self._places, address)]
        return byte


class Tracee:
    """One process and its threads, under our control until `let_go` or `kill`.

    NoSuchProcess and NotPermitted where it cannot be had.
    """

    def __init__(self, pid: int, started_here: bool) -> None:
        self.pid = pid
        self.started_here = started_here
        self._running: set[int] = set()
        self._stopped: dict[int, Stop] = {}
        self._pending: list[Stop] = []
        """Stops that came while all were being stopped, to be handed out later."""
        self._unborn: set[int] = set()
        self._registers = ctypes.create_string_buffer(_USER_REGS.size)
        self._affinity = os.sched_getaffinity(0)
        # SIGCHLD ends a wait with a deadline.
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
        self.ending: int | None = None
        """What waitpid(2) said of the process when it ended."""
        self.memory = TracedMemory(pid)
        self.breakpoints: Mapping[int, bytes] = self.memory.replaced
        self._file = os.open(f"/proc/{pid}/mem", os.O_RDWR)

    @classmethod
    def start(
        cls, command: Sequence[str], environment: Mapping[str, str], output: int | None = None
    ) -> "Tracee":
        """Start a program, which stands at its first instruction when this returns. OSError as execvpe.

        `output`: the file descriptor that becomes its standard output, instead of ours.
        """
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        go_read, go_write = os.pipe()
        told_read, told_write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(go_write)
                os.read(go_read, 1)
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
                if output is not None:
                    os.dup2(output, 1)
                os.execvpe(command[0], list(command), dict(environment))
            except OSError as error:
                os.write(told_write, str(error.errno).encode())
            finally:
                os._exit(127)
        os.close(go_read)
        os.close(told_write)
        try:
            tracee = cls(pid, started_here=True)
            tracee._seize(pid, _EXITKILL)
        finally:
            os.close(go_write)
        stop = tracee.wait(None)
        told = os.read(told_read, 16) if stop is None else b""
        os.close(told_read)
        if told:
            tracee._close()
            raise OSError(int(told), os.strerror(int(told)), command[0])
        return tracee

    @classmethod
    def attach(cls, pid: int) -> "Tracee":
        """Take over a running process and all of its threads, which stand still when this returns. CannotStop."""
        check_can_stop(pid)
        try:
            tracee = cls(pid, started_here=False)
        except PermissionError:
            raise NotPermitted(f"process {pid} may not be traced") from None
        known: set[int] = set()
        while new := {int(name) for name in os.listdir(f"/proc/{pid}/task")} - known:
            for tid in new:
                tracee._seize(tid, 0)
            known |= new
        tracee.stop()
        return tracee

    def _seize(self, tid: int, more: int) -> None:
        options = _TRACEFORK | _TRACEVFORK | _TRACECLONE | _TRACEEXEC | more
        if ptrace(SEIZE, tid, None, options) < 0:
            if ctypes.get_errno() == errno.EPERM:
                raise NotPermitted(f"thread {tid} may not be traced, or somebody else traces it")
            raise NoSuchProcess(f"thread {tid} has gone")
        self._running.add(tid)

    # Waiting

    @property
    def is_alive(self) -> bool:
        return bool(self._running or self._stopped)

    @property
    def any_stopped(self) -> int:
        """A thread that stands still; 0: there is none."""
        return next(iter(self._stopped), 0)

    def wait(self, seconds: float | None) -> Stop | None:
        """The next stop that matters, while all threads of `go_on` run; None when `seconds` have passed, or
        the process has ended. Other threads go on."""
        end = None if seconds is None else time.monotonic() + seconds
        while self.is_alive:
            if self._pending:
                return self._pending.pop(0)
            stop = self._collect(None if end is None else end - time.monotonic())
            if stop is None:  # time is up; or nobody runs, and those who wait for their turn are all stopped
                return self._pending.pop(0) if self._pending else None
            if stop.breakpoint or stop.exec:
                return stop
            self._continue(stop.tid)
        return None

    def _collect(self, seconds: float | None) -> Stop | None:
        """The next thread that stops; None when time is up or no thread runs any more."""
        end = None if seconds is None else time.monotonic() + max(seconds, 0)
        while self._running:
            tid, status = os.waitpid(-1, WALL | (0 if end is None else os.WNOHANG))
            if tid == 0:
                left = end - time.monotonic() if end is not None else 0
                if left <= 0:
                    return None
                signal.sigtimedwait([signal.SIGCHLD], min(left, 0.05))
                continue
            stop = self._note(tid, status)
            if stop is not None:
                return stop
        return None

    def _note(self, tid: int, status: int) -> Stop | None:
        if not os.WIFSTOPPED(status):
            if tid == self.pid:
                self.ending = status
            self._running.discard(tid)
            self._stopped.pop(tid, None)
            return None
        if tid not in self._running and tid not in self._stopped:
            if tid in self._unborn or os.path.exists(f"/proc/{self.pid}/task/{tid}"):
                self._unborn.discard(tid)
            else:
                self._unborn.add(tid)  # a child whose fork has not been told of yet
                return None
        self._running.discard(tid)
        number, event = os.WSTOPSIG(status), status >> 16
        stop = Stop(tid)
        if event in (_EVENT_FORK, _EVENT_VFORK):
            self._release_child(self._event_message(tid), event == _EVENT_FORK)
        elif event == _EVENT_CLONE:
            child = self._event_message(tid)
            known = child in self._running or child in self._stopped
            if not known and os.path.exists(f"/proc/{self.pid}/task/{child}"):  # it may be gone already
                self._unborn.add(child)
                self._running.add(child)
        elif event == _EVENT_EXEC:
            self._running.clear()
            self._stopped.clear()
            os.close(self._file)
            self._file = os.open(f"/proc/{self.pid}/mem", os.O_RDWR)
            self.memory.renew()
            stop = Stop(tid, exec=True)
        elif event == EVENT_STOP:
            stop = Stop(tid)
        elif number == signal.SIGTRAP:
            address = self.registers(tid)[-1] - 1
            if address in self.breakpoints:
                self.set_pc(tid, address)
                stop = Stop(tid, breakpoint=address)
        else:
            stop = Stop(tid, signal=number)
        self._stopped[tid] = stop
        return stop

    def _event_message(self, tid: int) -> int:
        message = ctypes.c_ulong()
        ptrace(_GETEVENTMSG, tid, None, ctypes.addressof(message))
        return message.value

    def _release_child(self, child: int, is_copy: bool) -> None:
        """Let a forked child run free, without our breakpoints in its copy of the memory."""
        if child not in self._unborn:
            os.waitpid(child, WALL)
        self._unborn.discard(child)
        if is_copy and self.breakpoints:
            file = os.open(f"/proc/{child}/mem", os.O_RDWR)
            for address, byte in self.breakpoints.items():
                os.pwrite(file, byte, address)
            os.close(file)
        ptrace(DETACH, child, None, None)

    # Control

    def stop(self) -> bool:
        """Have every thread stand still; that always works here. What stops for another reason meanwhile is kept
        for `wait`."""
        for tid in list(self._running):
            ptrace(INTERRUPT, tid, None, None)
        while self._running:
            stop = self._collect(None)
            if stop is None:
                break
            if stop.breakpoint or stop.exec:
                self._pending.append(stop)
        return True

    def go_on(self) -> None:
        """Let every thread run that has no stop waiting to be handed out."""
        waiting = {stop.tid for stop in self._pending}
        for tid in list(self._stopped):
            if tid not in waiting:
                self._continue(tid)

    def _continue(self, tid: int) -> None:
        stop = self._stopped.pop(tid)
        self._running.add(tid)
        ptrace(_CONT, tid, None, stop.signal if stop.signal not in _STOPS else 0)

    def threads(self) -> list[int]:
        """The threads that stand still."""
        return sorted(self._stopped)

    def step(self, tid: int) -> Stop | None:
        """Run one instruction of a stopped thread. None: it has ended. A stop with a signal has not run it."""
        return self._run_alone(_SINGLESTEP, tid)

    def run(self, tid: int) -> Stop | None:
        """Let one thread run until it stops, with no signal delivered but those that its instructions raise.

        None: it has ended. A breakpoint that was not put there by `insert` is a stop of no signal.
        """
        with self._signals_blocked(tid):
            while True:
                stop = self._run_alone(_CONT, tid)
                if stop is None or stop.signal not in _STOPS:
                    return stop

    def _run_alone(self, request: int, tid: int) -> Stop | None:
        self._stopped.pop(tid, None)
        self._running.add(tid)
        ptrace(request, tid, None, None)
        got, status = os.waitpid(tid, WALL)
        while status >> 16 == EVENT_STOP:  # we had asked for one that was not needed then: nothing was run
            ptrace(request, tid, None, None)
            got, status = os.waitpid(tid, WALL)
        if status == _STEPPED and request == _SINGLESTEP:  # wherever it has come to, no breakpoint was run
            self._running.discard(tid)
            stepped = self._stopped[tid] = Stop(tid)
            return stepped
        while True:
            stop = self._note(got, status)
            if stop is not None or not (tid in self._running or tid in self._stopped):
                return stop
            got, status = os.waitpid(tid, WALL)

    @contextlib.contextmanager
    def _signals_blocked(self, tid: int) -> Iterator[None]:
        mask, blocked = ctypes.c_uint64(), ctypes.c_uint64((1 << 64) - 1)
        for fault in _FAULTS:
            blocked.value &= ~(1 << fault - 1)
        ptrace(_GETSIGMASK, tid, ctypes.sizeof(mask), ctypes.addressof(mask))
        ptrace(_SETSIGMASK, tid, ctypes.sizeof(mask), ctypes.addressof(blocked))
        try:
            yield
        finally:
            ptrace(_SETSIGMASK, tid, ctypes.sizeof(mask), ctypes.addressof(mask))

    def system_call(self, tid: int, number: int, *arguments: int) -> int:
        """Have a stopped thread make a system call; its result, or the negative error number.

        The thread is left as it was found. OSError where that cannot be done.
        """
        vdso = next((each for each in self.memory.mappings() if each.path == "[vdso]"), None)
        code = self.memory.read(vdso.start, vdso.end - vdso.start) if vdso is not None else b""
        at = code.find(X86_64.linux.calls.instruction)
        if vdso is None or at < 0:
            raise OSError(errno.ENOSYS, "the process has no vDSO with a system call in it")
        ptrace(_GETREGS, tid, None, self._registers)
        before, stop = self._registers.raw, self._stopped[tid]
        values = list(_USER_REGS.unpack(before))
        for place, value in zip(_SYSTEM_CALL, (number, *arguments), strict=False):
            values[place] = value
        values[_DWARF_ORDER[-1]], values[_ORIGINAL_CALL] = vdso.start + at, _NO_SYSTEM_CALL
        _USER_REGS.pack_into(self._registers, 0, *values)
        ptrace(_SETREGS, tid, None, self._registers)
        with self._signals_blocked(tid):
            after = self.step(tid)
        if after is None or after.signal:
            raise OSError(errno.EINTR, "the thread did not come back from a system call")
        result = self.registers(tid)[0]
        self._registers.raw = before
        ptrace(_SETREGS, tid, None, self._registers)
        self._stopped[tid] = stop
        return result - (1 << 64) if result >> 63 else result

    def registers(self, tid: int) -> list[int]:
        """The registers of a stopped thread, by DWARF number."""
        ptrace(_GETREGS, tid, None, self._registers)
        values = _USER_REGS.unpack(self._registers)
        return [values[place] for place in _DWARF_ORDER]

    def set_pc(self, tid: int, address: int) -> None:
        self._set(tid, {_DWARF_ORDER[-1]: address})

    def set_registers(self, tid: int, registers: Sequence[int], flags: int) -> None:
        """Give a stopped thread all registers, by DWARF number, the program counter last, and its flags."""
        self._set(tid, dict(zip((*_DWARF_ORDER, _FLAGS), (*registers, flags), strict=True)))

    def _set(self, tid: int, places: Mapping[int, int]) -> None:
        ptrace(_GETREGS, tid, None, self._registers)
        values = list(_USER_REGS.unpack(self._registers))
        for place, value in places.items():
            values[place] = value
        values[_ORIGINAL_CALL] = _NO_SYSTEM_CALL
        _USER_REGS.pack_into(self._registers, 0, *values)
        ptrace(_SETREGS, tid, None, self._registers)

    def insert(self, address: int) -> None:
        """Put a breakpoint at `address`. UnreadableMemory where there is no memory."""
        if address not in self.breakpoints:
            byte = self.memory.read(address, 1)
            self.write(address, X86_64.breakpoint)
            self.memory.note(address, byte)

    def remove(self, address: int) -> None:
        byte = self.memory.forget(address)
        if (
            byte is not None and self._byte(address) == X86_64.breakpoint
        ):  # else the code there is another's by now
            self.write(address, byte)

    def _byte(self, address: int) -> bytes:
        try:
            return os.pread(self._file, 1, address)
        except OSError:
            return b""

    def write(self, address: int, data: bytes) -> None:
        """UnreadableMemory where there is no memory."""
        try:
            os.pwrite(self._file, data, address)
        except OSError:
            raise UnreadableMemory(address, len(data)) from None

    def share_processor(self) -> None:
        """Run on one processor with the process. `let_go` gives it back its own."""
        one = {sorted(self._affinity)[self.pid % len(self._affinity)]}
        os.sched_setaffinity(0, one)
        for tid in (*self._running, *self._stopped):
            os.sched_setaffinity(tid, one)

    def let_go(self) -> None:
        """Take the breakpoints back and let the process run as it did; one that was started here is ended."""
        os.sched_setaffinity(0, self._affinity)
        if self.started_here:
            self.kill()
            return
        self.stop()
        for address in list(self.breakpoints):
            self.remove(address)
        for tid, stop in self._stopped.items():
            try:
                os.sched_setaffinity(tid, self._affinity)
            except OSError:
                continue
            ptrace(DETACH, tid, None, stop.signal if stop.signal not in _STOPS else 0)
        self._stopped.clear()
        self._close()

    def kill(self) -> None:
        if self.is_alive:
            os.kill(self.pid, signal.SIGKILL)  # which ends stopped threads, too
            self._running.update(self._stopped)
            self._stopped.clear()
            while self._running:
                if self._collect(None) is not None:
                    self.go_on()
        self._close()

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
