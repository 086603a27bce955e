"""Every exception of jitunwind, each with what a person can do about it.

`str(error)` is what went wrong; `error.hint` is what to do, and may be empty. The command line prints both
and exits with 2.
"""

import errno


class JitunwindError(Exception):
    """The base of all."""

    hint = ""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        if hint is not None:
            self.hint = hint


class CannotWrite(JitunwindError):
    """A result that cannot be written: to stdout, or to a file that an option names."""

    _HINTS = {  # noqa: RUF012
        errno.ENOENT: "make its folder first, or name a file in a folder that exists",
        errno.ENOTDIR: "name a file in a folder that exists",
        errno.EISDIR: "name a file in it",
        errno.ENOSPC: "make room there, or write somewhere else",
        errno.EBADF: "redirect it: to a file, or to /dev/null",
    }

    def __init__(self, name: str, error: OSError) -> None:
        why = "it is closed" if error.errno == errno.EBADF else error.strerror
        super().__init__(
            f"{name} cannot be written: {why}", self._HINTS.get(error.errno or 0, "write somewhere else")
        )


class UnreadableMemory(JitunwindError):
    """Memory of the process that is not there, or not to be had."""

    def __init__(self, address: int, size: int) -> None:
        super().__init__(f"cannot read {size} bytes at {address:#x}")
        self.address = address
        self.size = size


class NotPython(JitunwindError):
    """The process is not a CPython that can be understood."""


class UnsupportedVersion(JitunwindError):
    """A CPython whose internals are not known here."""


class CorruptState(JitunwindError):
    """Structures of the process that contradict themselves."""

    hint = (
        "the process's memory is damaged, or it was stopped in the middle of a change: continue and try again"
    )


class NotElf(JitunwindError):
    """A file that is not a 64-bit little-endian ELF file, or a damaged one."""

    hint = "give an x86_64 or AArch64 Linux executable or shared library"


class OtherArchitecture(JitunwindError):
    """A file for a processor whose code is not known."""

    hint = "give a file for x86_64 or AArch64"


class NothingToCheck(JitunwindError):
    """A file without unwind tables, or without functions."""

    hint = "compile with -fasynchronous-unwind-tables, or give a file that has .eh_frame (readelf -S)"


class MalformedFrames(JitunwindError):
    """Unwind information that breaks the rules of DWARF 5, section 6.4, or of the LSB."""

    hint = "compare with readelf --debug-dump=frames; the file may be damaged"


class NoSuchProcess(JitunwindError):
    """There is no process of that number, or it has gone."""

    hint = "list Python processes with: pgrep -a python"


class NoSuchThread(JitunwindError):
    """The process has no thread of that number."""


class NotPermitted(JitunwindError):
    """The process is there, and not ours to look into."""

    hint = (
        "run as the process's user or as root; where that is not enough: "
        "sudo sysctl kernel.yama.ptrace_scope=0, or run jitunwind with sudo"
    )


class PerfMissing(JitunwindError):
    """There is no perf on this machine."""

    hint = "install it (apt-get install linux-perf, dnf install perf), or leave --perf away"


class PerfFailed(JitunwindError):
    """perf did not do what it was asked to."""

    hint = "try the commands of docs/profiling.md one by one, or leave --perf away"


class AlreadyTraced(JitunwindError):
    """Another debugger or tracer has the process."""

    hint = "detach the other debugger first: a process has one tracer at a time"


class CannotStop(JitunwindError):
    """A process that takes no signal now, so that no debugger can stop it."""


class BadCore(JitunwindError):
    """A core file that cannot be used."""

    hint = "take another one: ulimit -c unlimited before the crash, or gcore PID"


class BadDump(JitunwindError):
    """A file that is no dump of JIT code, or a damaged one."""

    hint = "make one with: jitunwind dump PID -o FILE"


class BadRecording(JitunwindError):
    """A file that is no recording, or a damaged one."""

    hint = "make one with: jitunwind record -o FILE.collapsed PID"


class NoStub(JitunwindError):
    """Nobody speaks GDB's remote protocol there."""

    hint = "start the program with one: qemu-aarch64 -g PORT PROGRAM, or gdbserver :PORT PROGRAM"


class RemoteFailed(JitunwindError):
    """A stub of GDB's remote protocol that does not do what it is asked to."""

    hint = "start the program and its stub anew; known to work are qemu-user 7.2 and later, and gdbserver"


class NoUserEmulator(JitunwindError):
    """A program of another architecture, and nothing to run it with."""

    hint = "install qemu-user (apt-get install qemu-user), or run jitunwind on such a machine"


class NoEmulator(JitunwindError):
    """The emulator is not installed."""

    hint = "pip install 'unicorn>=2.1,<3', for the Python that jitunwind runs in"


class NoLineReader(JitunwindError):
    """The package that reads lines from DWARF is not installed."""

    hint = "pip install 'symbolic>=13,<14', for the Python that jitunwind runs in"


class NoReader(JitunwindError):
    """A reader of unwind tables is not on this machine."""

    hint = "name another one with --reader; jitunwind audit --help lists them"


class ReaderFailed(JitunwindError):
    """A reader of unwind tables ended, or does not answer."""

    hint = "try once more, or name another one with --reader; jitunwind audit --help lists them"


class NothingToAudit(JitunwindError):
    """A program that ran, and in which no JIT code did."""

    hint = "a Python with a JIT, PYTHON_JIT=1, and a program that runs hot code for some seconds"


class JitOff(JitunwindError):
    """A CPython in which no JIT code will run."""

    hint = (
        "start it with PYTHON_JIT=1; this tells whether it has a JIT: "
        "PYTHON -c 'import sys; print(sys._jit.is_available())'"
    )


class NothingToExplain(JitunwindError):
    """A process or a core without JIT code."""

    hint = "jitunwind doctor PID, or CORE, says what was looked for"


class NoSuchRegion(JitunwindError):
    """No region is the one that was asked for."""


class AgentMissing(JitunwindError):
    """The agent, which publishes from inside, was not built."""

    hint = (
        "install a C compiler (apt-get install gcc libc6-dev), and then jitunwind once more, in its checkout: "
        "pip install --force-reinstall --no-deps --no-cache-dir ."
    )


class AgentFailed(JitunwindError):
    """The agent did not publish what it was given."""

    hint = "jitunwind doctor says what the agent needs"


class BrokenInvariant(JitunwindError):
    """Code that does not keep to what was stated about its stack."""

    hint = "have the code keep to it, or describe it by an UnwindTable"


class GdbMissing(JitunwindError):
    """No GDB to work with."""

    hint = "install it (apt-get install gdb, or pip install gdb-for-pwndbg), or name one with --gdb"


class GdbFailed(JitunwindError):
    """GDB ended without an answer."""

    hint = "GDB 13 or later with Python 3.11 or later is needed; name another with --gdb"


class CannotStart(JitunwindError):
    """A Python that cannot be started, or not with publishing switched on."""

    hint = "name another Python with --python"


class RemoteDebuggingOff(JitunwindError):
    """The process lets nobody execute code in it."""

    hint = (
        "start it without PYTHON_DISABLE_REMOTE_DEBUG and -X disable_remote_debug, or start it with "
        "jitunwind run, or with JITUNWIND=1"
    )


class NoSafePoint(JitunwindError):
    """The process has not come to a place where it can execute what it was asked to."""


class NotEnabled(JitunwindError):
    """The process was asked to publish its JIT code, and could not."""

    hint = "try again, or start the program with jitunwind run"
