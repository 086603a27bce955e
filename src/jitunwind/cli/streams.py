"""stdin, stdout and stderr of the `jitunwind` command, whatever they were at its start.

They may be closed, full, or of an encoding that lacks a character. `take` replaces Python's own. A failing write to
stdout then is a CannotWrite, which the command line prints as it prints every error.
"""

import codecs
import errno
import fcntl
import io
import locale
import os
import select
import sys
from typing import TYPE_CHECKING, TextIO

from jitunwind.errors import CannotWrite

if TYPE_CHECKING:
    from typing_extensions import Buffer  # collections.abc has it from Python 3.12 on

_STDIN, _STDOUT, _STDERR = 0, 1, 2
_ASCII = "jitunwind_ascii"
"""ASCII, by a name that click does not know: for a stream of ASCII click would write UTF-8."""
_REPLACED = "jitunwind_replaced"
_LOOK_ALIKES = {
    "…": "...",
    "→": "->",
    "←": "<-",
    "×": "x",
    "·": ".",
    "–": "-",
    "—": "-",
    "─": "-",
    "│": "|",
    "≠": "!=",
}


def take() -> None:
    """Make the three streams usable.

    A closed one gets a descriptor with which every read or write fails. Otherwise the next file that is opened would
    have its number, and what is meant for the stream would end up there. A program that this process starts or
    becomes finds the stream closed, as before.
    """
    for descriptor in (_STDIN, _STDOUT, _STDERR):
        if not _is_open(descriptor):
            _occupy(descriptor)
    codecs.register(_search)
    codecs.register_error(_REPLACED, _replace)
    sys.stdout = _text(_Stdout(_STDOUT, "wb", closefd=False), sys.stdout)
    sys.stderr = _text(_Stderr(_STDERR, "wb", closefd=False), sys.stderr)


def check_stdout() -> None:
    """CannotWrite, if stdout was closed, or open for reading only, when the command was started."""
    if fcntl.fcntl(_STDOUT, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise CannotWrite("stdout", OSError(errno.EBADF, os.strerror(errno.EBADF)))


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _occupy(descriptor: int) -> None:
    """Open the null device as `descriptor`: stdin for writing, the others for reading. execve closes it."""
    got = os.open(os.devnull, os.O_WRONLY if descriptor == _STDIN else os.O_RDONLY)
    if got != descriptor:
        os.dup2(got, descriptor, inheritable=False)
        os.close(got)


def _text(raw: io.FileIO, before: TextIO | None) -> io.TextIOWrapper:
    """A text stream that writes to `raw`, in the encoding of `before` (None: Python found the stream closed)."""
    encoding = locale.getencoding() if before is None else before.encoding
    if codecs.lookup(encoding).name == "ascii":
        encoding = _ASCII
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors=_REPLACED, line_buffering=raw.isatty())


class _Stdout(io.FileIO):
    """Says why it cannot be written, once, and swallows what follows: Python flushes it at its end."""

    _has_failed = False

    def write(self, data: "Buffer", /) -> int:
        if not self._has_failed:
            try:
                return _write(self.fileno(), data)
            except OSError as error:
                self._has_failed = True
                check_stdout()
                raise CannotWrite("stdout", error) from None
        return memoryview(data).nbytes


class _Stderr(io.FileIO):
    """Swallows what cannot be written: there is nobody left to tell."""

    def write(self, data: "Buffer", /) -> int:
        try:
            return _write(self.fileno(), data)
        except OSError:
            return memoryview(data).nbytes


def _write(descriptor: int, data: "Buffer") -> int:
    """How many bytes were written, one at least; waits for a reader where the stream is non-blocking."""
    while True:
        try:
            return os.write(descriptor, data)
        except BlockingIOError:
            select.select([], [descriptor], [])


def _replace(error: UnicodeError) -> tuple[str, int]:
    """For characters that the encoding lacks: look-alikes, or Python's escapes."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_LOOK_ALIKES.get(each, ascii(each)[1:-1]) for each in lacking), error.end


def _search(name: str) -> codecs.CodecInfo | None:
    if name != _ASCII:
        return None
    known = codecs.lookup("ascii")
    return codecs.CodecInfo(
        known.encode,
        known.decode,
        known.streamreader,
        known.streamwriter,
        known.incrementalencoder,
        known.incrementaldecoder,
        _ASCII,
    )
