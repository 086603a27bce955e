"""Tables by the names that people give them: `recovered`, `published`, or the path of an ELF object."""

from collections.abc import Callable, Sequence
from pathlib import Path

from jitunwind.arch import Architecture
from jitunwind.arch.known import decoder
from jitunwind.errors import JitunwindError, MalformedFrames, NotElf, NothingToCheck
from jitunwind.tables.sources import Published, Recovered, Tables, from_file

_FILE = "an ELF object whose .eh_frame has the addresses of the process"


def tables_named(
    names: Sequence[str],
    arch: Architecture,
    published: Callable[[], Tables],
    kinds: tuple[str, ...] = (Recovered.name, Published.name),
) -> list[Tables]:
    """One of each name, in order; `published` makes what is published, `kinds` are the names besides files'.

    JitunwindError for a name that is none, or a file that has no table."""
    found: dict[str, Tables] = {}
    for name in names:
        if name == Recovered.name and name in kinds:
            found[name] = Recovered(arch, decoder(arch))
        elif name == Published.name and name in kinds:
            found[name] = published()
        elif Path(name).is_file():
            found[name] = _of_file(arch, Path(name), kinds)
        else:
            *others, last = [*kinds, "a file"]
            raise JitunwindError(
                f"--table {name}: neither {' nor '.join(others)}, nor {last}"
                if len(others) > 1
                else f"--table {name}: neither {others[0]} nor {last}",
                f"--table takes {', '.join(kinds)}, or {_FILE}",
            )
    return list(found.values())


def _of_file(arch: Architecture, path: Path, kinds: tuple[str, ...]) -> Tables:
    hint = f"--table takes {_FILE}, or: {', '.join(kinds)}"
    try:
        found = from_file(arch, path)
    except OSError as error:
        raise JitunwindError(f"--table {path} cannot be read: {error.strerror}", hint) from None
    except NotElf as error:
        raise NotElf(f"--table {error}", hint) from None
    except MalformedFrames as error:
        raise MalformedFrames(f"--table {path}: its .eh_frame is damaged: {error}") from None
    if not found.encoded(()):
        raise NothingToCheck(f"--table {path} has no .eh_frame", hint)
    return found
