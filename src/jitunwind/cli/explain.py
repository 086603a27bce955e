"""`jitunwind explain`: what JIT code is made of, on a page or on the terminal."""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

import click

from jitunwind.arch import Architecture
from jitunwind.cli.files import Output, OutputFile
from jitunwind.cli.output import columns, is_coloured, print_warning, reporting
from jitunwind.cli.verb import Verb, color_option, target_argument
from jitunwind.errors import (
    BadCore,
    JitunwindError,
    MalformedFrames,
    NoSuchRegion,
    NotElf,
    NothingToCheck,
    NothingToExplain,
)
from jitunwind.explain.data import as_data
from jitunwind.explain.html import page
from jitunwind.explain.model import Explained, Explainer, Listed, Summary, summary_of
from jitunwind.explain.origin import Origin, origin_of
from jitunwind.explain.sources import Sources, owner_of, sources_of, sources_of_core
from jitunwind.explain.subjects import OfDump, OfProcess
from jitunwind.explain.text import UNBOUNDED, heading, region_lines, regions_table, summary_lines
from jitunwind.jits.cpython.discovery import read_layout
from jitunwind.jits.cpython.dump import load
from jitunwind.jits.cpython.layout import Layout
from jitunwind.jits.cpython.regions import Regions
from jitunwind.memory import Memory
from jitunwind.memory.core import arguments_of, check_core, is_core, program_here
from jitunwind.memory.corefile import CoreFile
from jitunwind.memory.live import check_process, command_line, is_number
from jitunwind.memory.process import LiveProcess
from jitunwind.tables.sources import Published, Tables, from_dump, from_file
from jitunwind.wording import printable

Note = Callable[[int, int], None]
"""Told how many are done, of how many."""
_TRIES = 3
"""How often a process is read anew that compiles or frees code meanwhile."""


@click.command(cls=Verb, prints=False)
@target_argument("PID|CORE|DUMP")
@click.option("--exe", metavar="PYTHON", help="The program that left the core.  [default: as the core says]")
@click.option(
    "--region", metavar="N", help="Only this one: its number, an address (0x…) in it, or part of its name."
)
@click.option(
    "--table",
    "names",
    metavar="published|FILE",
    multiple=True,
    help="A table to hold against the recovered one; may be given more than once. FILE: an ELF object whose "
    ".eh_frame has the process's addresses.  [default: published]",
)
@click.option(
    "-o",
    "--output",
    type=OutputFile(),
    metavar="FILE",
    help="Write an HTML page, or JSON with --json; -: to stdout.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, or write it to the file of -o.")
@color_option
def explain(
    target: str,
    exe: str | None,
    region: str | None,
    names: tuple[str, ...],
    output: Output | None,
    as_json: bool,
    color: str,
) -> None:
    """Show JIT code: source, micro-ops, machine code, unwind rows.

    Where another table says something else than the recovered one, it is shown in red; what differs at every
    instruction is said once. A live process is read while it runs. Of a DUMP (jitunwind dump), which has no more, the
    machine code is shown. Without --region, the terminal gets a list of regions, and a page or JSON all of them.

    \b
    jitunwind explain PID
    jitunwind explain PID --region weigh
    jitunwind explain PID -o report.html

    Exit status: 0 shown, whether tables differ or not; 2 the input cannot be used, or has no JIT code.
    """
    begin = time.monotonic()
    names = names or (Published.name,)
    if region is not None and not region.strip():
        raise NoSuchRegion("--region is empty", "name a number, an address (0x…), or part of a region's name")
    whole = region is not None or output is not None or as_json
    if not is_number(target) and exe is None and Path(target).is_file() and not is_core(Path(target)):
        with reporting(f"reading {target}") as note:
            subject, command = f"dump {target}", ""
            version, found = _read_dump(target, region, names, whole, note)
    else:
        with _opened(target, exe) as memory:
            layout = read_layout(memory)
            subject, command = _told(target)
            with reporting(f"reading {target}") as note:
                found = _read(memory, layout, target, region, names, whole, note)
        version = layout.version_text
    origin = origin_of(subject, f"CPython {version}", command)
    text = ""
    if as_json:
        text = json.dumps(as_data(origin, found.summary, found.explained, found.warnings), indent=2)
    elif output is not None:
        text = page(origin, found.summary, found.explained, found.warnings)
    if output is not None:
        output.write(text)
        said = f"{output}: {found.summary.regions:,} region{'s'[: found.summary.regions != 1]}, "
        click.echo(f"{said}{len(text.encode()) / 1e6:.1f} MB, {time.monotonic() - begin:.1f} s", err=True)
    elif as_json:
        click.echo(text)
    else:
        width = columns(sys.stdout, UNBOUNDED)
        click.echo("\n".join(_text(origin, found, region, width)), color=is_coloured(color, sys.stdout))
    for warning in found.warnings:
        print_warning(printable(warning))


def _told(target: str) -> tuple[str, str]:
    """What to call a process or a core, and the command line that started it."""
    if is_number(target):
        return f"process {target}", command_line(int(target))
    return f"core {target}", arguments_of(Path(target))


class _Found(NamedTuple):
    """What was read of the process; nothing more is asked of it."""

    listed: list[Listed]
    explained: list[Explained]
    summary: Summary
    warnings: list[str]


@contextlib.contextmanager
def _opened(target: str, exe: str | None) -> Iterator[Memory]:
    """The memory of a process or a core. JitunwindError, click.UsageError."""
    if is_number(target):
        if exe is not None:
            raise click.UsageError("--exe is for cores: a live process says itself what it runs")
        check_process(int(target))
        with LiveProcess(int(target)) as process:
            yield process
        return
    core = Path(target)
    if not core.exists():
        raise BadCore(f"{target} is neither a process number nor a file", "name a PID or a core file")
    check_core(core)
    with CoreFile(core, program_here(core, exe)) as memory:
        yield memory


def _read(
    memory: Memory,
    layout: Layout,
    target: str,
    region: str | None,
    names: Sequence[str],
    whole: bool,
    note: Note,
) -> _Found:
    """The regions, and those explained that were asked for; all of one moment, if the process gives one."""
    sources = sources_of(int(target)) if is_number(target) else sources_of_core(Path(target))
    arch = memory.architecture
    for left in reversed(range(_TRIES)):
        regions = Regions(memory, layout)
        tables = _tables(arch, names, lambda: Published(arch, memory))
        explainer = Explainer(OfProcess(regions), tables, sources)
        listed = explainer.listed(note)
        if not listed:
            raise NothingToExplain(f"no JIT code in {target}", _why_nothing(regions))
        found = _explained(explainer, listed, region, names, whole, note)
        steady = regions.still_true()
        if steady or not left:
            break
    found.warnings[:0] = regions.warnings
    found.warnings.extend(
        f"{file} is newer than the {'process' if is_number(target) else 'core'}: lines of it may be others than those "
        "that run"
        for file in sources.newer
    )
    if not steady:
        found.warnings.append("JIT code came or went while it was read: some of this may be out of date")
    return found


def _read_dump(
    target: str, region: str | None, names: Sequence[str], whole: bool, note: Note
) -> tuple[str, _Found]:
    """The dump's version of CPython, and its regions. BadDump."""
    dump = load(Path(target))
    if not dump.codes:
        raise NothingToExplain(f"no JIT code in {target}", "take another dump: jitunwind dump PID -o FILE")
    tables = _tables(dump.architecture, names, lambda: from_dump(dump.architecture, dump))
    explainer = Explainer(OfDump(dump), tables, Sources(owner_of(Path(target))))
    return dump.version, _explained(explainer, explainer.listed(note), region, names, whole, note)


def _explained(
    explainer: Explainer,
    listed: list[Listed],
    region: str | None,
    names: Sequence[str],
    whole: bool,
    note: Note,
) -> _Found:
    chosen = _chosen(listed, region) if whole else []
    explained = []
    for number, each in enumerate(chosen):
        note(number, len(chosen))
        explained.append(explainer.explain(each))
    return _Found(
        listed,
        explained,
        summary_of(explainer.arch, explained, names),
        list(dict.fromkeys(explainer.warnings)),
    )


def _why_nothing(regions: Regions) -> str:
    if regions.jit_is_on() is False:
        return "this Python's JIT is off, or it has none: PYTHON_JIT=1 turns it on"
    return "the JIT is on, and nothing has become hot: let it run longer"


def _tables(arch: Architecture, names: Sequence[str], published: Callable[[], Tables]) -> list[Tables]:
    found: dict[str, Tables] = {}
    for name in names:
        if name == Published.name:
            found[name] = published()
        elif Path(name).is_file():
            found[name] = _table_of(arch, Path(name))
        else:
            raise click.UsageError(f"--table {name}: neither published nor a file")
    return list(found.values())


def _table_of(arch: Architecture, path: Path) -> Tables:
    """JitunwindError."""
    hint = "--table takes an ELF object whose .eh_frame has the addresses of the process, or: published"
    try:
        found = from_file(arch, path)
    except OSError as error:
        raise JitunwindError(f"--table {path} cannot be read: {error.strerror}") from None
    except NotElf as error:
        raise NotElf(f"--table {error}", hint) from None
    except MalformedFrames as error:
        raise MalformedFrames(f"--table {path}: its .eh_frame is damaged: {error}") from None
    if not found.encoded(()):
        raise NothingToCheck(f"--table {path} has no .eh_frame", hint)
    return found


def _chosen(listed: Sequence[Listed], wanted: str | None) -> Sequence[Listed]:
    """All; the one of that number, or that an address lies in; or those with a text in their names."""
    if wanted is None:
        return listed
    if wanted.isascii() and wanted.isdigit():
        found = [each for each in listed if each.number == int(wanted)]
    elif wanted.startswith("0x"):
        try:
            address = int(wanted, 16)
        except ValueError:
            raise click.UsageError(f"--region {wanted} is no address") from None
        found = [each for each in listed if each.code.start <= address < each.code.start + each.code.size]
    else:
        found = [each for each in listed if wanted in each.name]
    if not found:
        raise NoSuchRegion(f"there is no region {wanted}", _instead(listed, wanted))
    return found


def _instead(listed: Sequence[Listed], wanted: str) -> str:
    """What there is that looks like it."""
    said = f"a number from 0 to {len(listed) - 1}, an address in one, or part of a name; none: all are listed"
    if wanted.startswith("0x") or wanted.isdigit():
        return said
    names = dict.fromkeys(part for each in listed for part in _parts(each.name))
    lower = {name.lower(): name for name in names}
    found = get_close_matches(wanted.lower(), lower, n=3, cutoff=0.5)
    found = found or [name for name in lower if wanted.lower() in name][:3]
    alike = [lower[each] for each in found] or list(names)[:3]
    return f"{'did you mean' if found else 'there are, among others:'} {', '.join(map(printable, alike))}; {said}"


def _parts(name: str) -> Iterator[str]:
    """`f` and `of.py` of `py::f:/path/of.py`."""
    function, _, file = name.removeprefix("py::").partition(":/")
    if file:
        yield function
        yield file.rpartition("/")[2]


def _text(origin: Origin, found: _Found, region: str | None, width: int) -> Iterator[str]:
    yield from heading(origin, width)
    yield ""
    if region is None:
        yield from regions_table(found.listed, width)
        yield ""
        yield click.style("one of them: --region NUMBER, ADDRESS or NAME", dim=True)
        yield click.style("all, as a page: -o FILE", dim=True)
        return
    yield from summary_lines(found.summary, width)
    for each in found.explained:
        yield ""
        yield from region_lines(each, found.summary, width)
