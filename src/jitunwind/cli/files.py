"""Files that a verb writes a result to: tried before the work, and written whole or not at all."""

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Iterator
from typing import Any

import click
from click.shell_completion import CompletionItem

from jitunwind.cli.output import print_note
from jitunwind.cli.streams import check_stdout
from jitunwind.errors import CannotWrite

_STDOUT = "-"
_NAMED = "jitunwind.outputs"


class Output:
    """Where a result goes: a file, a device, a pipe, or stdout (`-`).

    A file gets its content in one step, by a rename. If the disk is full or the command is killed, what was there
    before stays.
    """

    def __init__(self, path: str) -> None:
        """CannotWrite, if nothing can be written there. Nothing is there yet afterwards."""
        self.is_stdout = path == _STDOUT
        self._path = path
        if self.is_stdout:
            check_stdout()
            return
        with self._explained():
            before = self._stat()
            if before is None or stat.S_ISREG(before.st_mode):
                self._try_file(before)
            elif stat.S_ISDIR(before.st_mode):
                raise IsADirectoryError(errno.EISDIR, "it is a folder")
            elif not stat.S_ISFIFO(before.st_mode):  # to open a pipe is to wait for its reader
                os.close(os.open(path, os.O_WRONLY))

    def __str__(self) -> str:
        return "stdout" if self.is_stdout else self._path

    def write(self, content: str | bytes) -> None:
        """Write all of it; text as UTF-8. CannotWrite."""
        data = _bytes(content)
        if self.is_stdout:
            _print(data)
            return
        with self._explained():
            before = self._stat()
            if before is not None and _is_stdout(before):  # /dev/stdout: a rename would part the two
                _print(data)
                return
            if before is None or stat.S_ISREG(before.st_mode):
                try:
                    self._replace(before, data)
                    return
                except PermissionError:  # the folder's, not the file's
                    if before is None:
                        raise
            is_pipe = before is not None and stat.S_ISFIFO(before.st_mode)
            with open(self._reached() if is_pipe else self._path, "wb") as file:
                file.write(data)

    def _reached(self) -> int:
        """The pipe, opened; where nobody reads it, that is said, and waited for."""
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            print_note(f"{self._path} is a pipe that nobody reads: waiting for a reader")
            return os.open(self._path, os.O_WRONLY)
        os.set_blocking(descriptor, True)
        return descriptor

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CannotWrite(self._path, error) from None

    def _stat(self) -> os.stat_result | None:
        try:
            return os.stat(self._path)
        except FileNotFoundError:
            return None

    def _try_file(self, before: os.stat_result | None) -> None:
        """OSError, if a file cannot be written: neither replaced nor, where there is one, written to."""
        if before is not None:
            os.close(os.open(self._path, os.O_WRONLY))
        with contextlib.suppress(*((PermissionError,) if before else ())):
            descriptor, beside = self._beside()
            os.close(descriptor)
            os.unlink(beside)

    def _beside(self) -> tuple[int, str]:
        """A new file in the folder of the file, through symbolic links."""
        folder, name = os.path.split(os.path.realpath(self._path))
        if not name or self._path.endswith("/"):
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        import tempfile  # verbs without a file start faster without it

        return tempfile.mkstemp(prefix=".jitunwind-", dir=folder)

    def _replace(self, before: os.stat_result | None, data: bytes) -> None:
        """With the owner and the rights of the file `before`."""
        descriptor, beside = self._beside()
        try:
            with open(descriptor, "wb") as file:
                file.write(data)
                if before is not None:
                    with contextlib.suppress(OSError):
                        os.fchown(descriptor, before.st_uid, before.st_gid)
                os.fchmod(descriptor, stat.S_IMODE(before.st_mode) if before else 0o666 & ~_umask())
            os.replace(beside, os.path.realpath(self._path))
        except BaseException:
            os.unlink(beside)
            raise


def written_elsewhere(content: str | bytes, suffix: str) -> str:
    """Write what found no room where it should go to a new file in the folder for temporary files; its path.
    CannotWrite."""
    import tempfile

    folder = tempfile.gettempdir()
    try:
        descriptor, path = tempfile.mkstemp(suffix, "jitunwind-", folder)
        try:
            with open(descriptor, "wb") as file:
                file.write(_bytes(content))
        except OSError:
            os.unlink(path)
            raise
    except OSError as error:
        raise CannotWrite(folder, error) from None
    return path


def _bytes(content: str | bytes) -> bytes:
    return content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content


def _is_stdout(file: os.stat_result) -> bool:
    return stat.S_ISREG(file.st_mode) and os.path.samestat(file, os.fstat(1))


def _print(data: bytes) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _umask() -> int:
    mask = os.umask(0o77)
    os.umask(mask)
    return mask


def check_stdout_is_free(prints_json: bool, *outputs: Output | None) -> bool:
    """Whether one of the options has taken stdout for itself, so that the text does not go there.
    click.UsageError, if two have, JSON included."""
    taken = sum(output is not None and output.is_stdout for output in outputs)
    if taken + prints_json > 1:
        raise click.UsageError("only one can go to stdout: --json, or one output option with -")
    return bool(taken)


class OutputFile(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """An option's value that becomes an `Output`. Two options of a verb cannot name the same one."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, Output) or (ctx is not None and ctx.resilient_parsing):
            return value
        if ctx is not None and param is not None:
            named: dict[str, str] = ctx.meta.setdefault(_NAMED, {})
            other = named.setdefault(os.path.realpath(value) if value != _STDOUT else value, param.opts[-1])
            if other != param.opts[-1]:
                self.fail(f"{other} writes to {value}, too", param, ctx)
        return Output(value)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type="file")]
