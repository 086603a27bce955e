"""How each way in which a verb ends becomes an exit status, and what is said of it."""

import contextlib
from collections.abc import Callable, Iterator

from jitunwind.cli.output import INTERRUPTED, UNUSABLE, print_error
from jitunwind.errors import CorruptState, JitunwindError, NoSuchProcess, NotPython, UnreadableMemory
from jitunwind.memory.live import has_ended, is_alive, is_number

_DAMAGED = (CorruptState, NotPython, UnreadableMemory)
"""What a process seems to be whose memory goes away while it is read."""


def status_of(work: Callable[[], object]) -> int:
    """Do `work`; gives the exit status, which is what `work` gives, if that is a number. What a person can mend is two
    lines, not a traceback."""
    try:
        status = work()
    except JitunwindError as error:
        print_error(str(error), error.hint)
        return UNUSABLE
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        print_error(*of_the_system(error))
        return UNUSABLE
    except Exception as error:
        import traceback

        traceback.print_exc()
        print_error(
            f"jitunwind itself has failed: {type(error).__name__}: {error}",
            "report it, with the lines above and the output of jitunwind --version",
        )
        return UNUSABLE
    return status if isinstance(status, int) else 0


def of_the_system(error: OSError) -> tuple[str, str]:
    """What is wrong, and what to try, of an error that nobody has expected."""
    of = f"{error.filename}: " if error.filename else ""
    return f"{of}{error.strerror or error}", "jitunwind help VERB says what it needs"


@contextlib.contextmanager
def saying_if_ended(target: str) -> Iterator[None]:
    """Errors that come of the process `target` having ended become NoSuchProcess."""
    try:
        yield
    except (OSError, *_DAMAGED) as error:
        if not is_number(target):
            raise
        pid = int(target)
        ended = has_ended(pid, error) if isinstance(error, OSError) else not is_alive(pid)
        if not ended:
            raise
        raise NoSuchProcess(f"process {pid} has ended while it was read") from None
