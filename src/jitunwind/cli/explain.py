"""`jitunwind explain`: what JIT code is made of, on a page or on the terminal."""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import click

from jitunwind.arch import Architecture
from jitunwind.audit.tables import Published, Tables, from_dump, from_file
from jitunwind.cli.files import Output, OutputFile
from jitunwind.cli.output import is_coloured, print_warning, printable, progress
from jitunwind.cli.verb import Verb, color_option, target_argument
from jitunwind.cpython.dump import load
from jitunwind.cpython.layout import Layout, read_layout
from jitunwind.cpython.regions import Regions
from jitunwind.errors import (
    BadCore,
    NoSuchProcess,
    NoSuchRegion,
    NothingToExplain,
    UnreadableMemory,
)
from jitunwind.explain.data import as_data
from jitunwind.explain.html import page
from jitunwind.explain.model import Explained, Explainer, Listed, Summary, summary_of
from jitunwind.explain.sources import Sources, owner_of
from jitunwind.explain.subjects import OfDump, OfProcess
from jitunwind.explain.text import region_lines, regions_table, summary_lines
from jitunwind.memory import Memory
from jitunwind.memory.core import check_core, is_core, program_here
from jitunwind.memory.corefile import CoreFile
from jitunwind.memory.live import check_process, is_alive, is_number
from jitunwind.memory.process import LiveProcess

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
    help="Write an HTML page; -: to stdout.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
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

    Where another table says something else than the recovered one, it is shown in red. A live process is read
    while it runs. Of a DUMP (jitunwind dump), which has no more, the machine code is shown. Without --region, the
    terminal gets a list of regions, and a page or JSON all of them.

    \b
    jitunwind explain PID
    jitunwind explain PID --region weigh
    jitunwind explain PID -o report.html

    Exit status: 0 shown, whether tables differ or not; 2 the input cannot be used, or has no JIT code.
    """
    begin = time.monotonic()
    names = names or (Published.name,)
    whole = bool(region or output or as_json)
    if not is_number(target) and exe is None and Path(target).is_file() and not is_core(Path(target)):
        with progress(f"reading {target}"):
            subject, version, found = f"dump {target}", *_read_dump(target, region, names, whole)
    else:
        with _opened(target, exe) as memory:
            layout = read_layout(memory)
            with progress(f"reading {target}"):
                found = _read(memory, layout, target, region, names, whole)
        subject = f"process {target}" if is_number(target) else f"core {target}"
        version = layout.version_text
    python = f"CPython {version}"
    if as_json:
        click.echo(
            json.dumps(as_data(subject, python, found.summary, found.explained, found.warnings), indent=2)
        )
    elif output is None:
        click.echo("\n".join(_text(subject, python, found, region)), color=is_coloured(color, sys.stdout))
    if output is not None:
        html = page(subject, python, found.summary, found.explained, found.warnings)
        output.write(html)
        regions = found.summary.regions
        said = f"{output}: {regions} region{'' if regions == 1 else 's'}, {len(html.encode()) / 1e6:.1f} MB, "
        click.echo(f"{said}{time.monotonic() - begin:.1f} s", err=True)
    for warning in found.warnings:
        print_warning(printable(warning))


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
        try:
            with LiveProcess(int(target)) as process:
                yield process
        except (FileNotFoundError, ProcessLookupError, UnreadableMemory):
            if is_alive(int(target)):
                raise
            raise NoSuchProcess(f"process {target} has ended while it was read") from None
        return
    core = Path(target)
    if not core.exists():
        raise BadCore(f"{target} is neither a process number nor a file", "name a PID or a core file")
    check_core(core)
    with CoreFile(core, program_here(core, exe)) as memory:
        yield memory


def _read(
    memory: Memory, layout: Layout, target: str, region: str | None, names: Sequence[str], whole: bool
) -> _Found:
    """The regions, and those explained that were asked for; all of one moment, if the process gives one."""
    sources = Sources(owner_of(Path(f"/proc/{target}") if is_number(target) else Path(target)))
    arch = memory.architecture
    for left in reversed(range(_TRIES)):
        regions = Regions(memory, layout)
        tables = _tables(arch, names, lambda: Published(arch, memory))
        explainer = Explainer(OfProcess(regions), tables, sources)
        listed = explainer.listed()
        if not listed:
            raise NothingToExplain(f"no JIT code in {target}", _why_nothing(regions))
        found = _explained(explainer, listed, region, names, whole)
        steady = regions.still_true()
        if steady or not left:
            break
    found.warnings[:0] = regions.warnings
    if not steady:
        found.warnings.append("JIT code came or went while it was read: some of this may be out of date")
    return found


def _read_dump(target: str, region: str | None, names: Sequence[str], whole: bool) -> tuple[str, _Found]:
    """The dump's version of CPython, and its regions. BadDump."""
    dump = load(Path(target))
    if not dump.codes:
        raise NothingToExplain(f"no JIT code in {target}", "take another dump: jitunwind dump PID -o FILE")
    tables = _tables(dump.architecture, names, lambda: from_dump(dump.architecture, dump))
    explainer = Explainer(OfDump(dump), tables, Sources(owner_of(Path(target))))
    return dump.version, _explained(explainer, explainer.listed(), region, names, whole)


def _explained(
    explainer: Explainer, listed: list[Listed], region: str | None, names: Sequence[str], whole: bool
) -> _Found:
    explained = [explainer.explain(each) for each in (_chosen(listed, region) if whole else ())]
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
            found[name] = from_file(arch, Path(name))
        else:
            raise click.UsageError(f"--table {name}: neither published nor a file")
    return list(found.values())


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
        raise NoSuchRegion(
            f"there is no region {wanted}",
            f"a number from 0 to {len(listed) - 1}, an address in one, or part of a name: without --region they "
            "are listed",
        )
    return found


def _text(subject: str, python: str, found: _Found, region: str | None) -> Iterator[str]:
    yield click.style(f"{subject}, {python}", dim=True)
    if region is None:
        yield ""
        yield from regions_table(found.listed)
        yield ""
        yield click.style("one of them: --region NUMBER, ADDRESS or NAME; all, as a page: -o FILE", dim=True)
        return
    yield from summary_lines(found.summary)
    for each in found.explained:
        yield ""
        yield from region_lines(each)
