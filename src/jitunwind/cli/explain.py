"""`jitunwind explain`: what JIT code is made of, on a page or on the terminal."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from typing import NamedTuple

import click

from jitunwind.cli.files import Output, OutputFile
from jitunwind.cli.output import columns, is_coloured, print_warning, reporting
from jitunwind.cli.ownprocess import without_garbage_collection
from jitunwind.cli.verb import Verb, color_option, named, target_argument
from jitunwind.errors import (
    JitunwindError,
    NoSuchRegion,
    NothingToExplain,
)
from jitunwind.explain.data import as_data
from jitunwind.explain.html import page
from jitunwind.explain.model import Explained, Explainer, Listed, Summary, summary_of
from jitunwind.explain.origin import Origin, origin_of
from jitunwind.explain.sources import Sources, owner_of, sources_of, sources_of_core
from jitunwind.explain.subjects import OfDump, OfProcess
from jitunwind.explain.text import UNBOUNDED, heading, region_lines, regions_table, summary_lines
from jitunwind.jits.dump import load
from jitunwind.jits.known import Jits
from jitunwind.memory import Memory
from jitunwind.memory.corefile import CoreFile
from jitunwind.memory.targets import Kind, Target, command_of, opened, target_of
from jitunwind.tables.chosen import tables_named
from jitunwind.tables.sources import Published, from_dump
from jitunwind.wording import printable

Note = Callable[[int, int], None]
"""Told how many are done, of how many."""
_TRIES = 3
"""How often a process is read anew that compiles or frees code meanwhile."""
_SHORT_SECONDS = 1.0
"""Of a read: after a longer one something has changed again."""


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
    subject, command = target_of(target, exe, files="a core file, or a dump"), ""
    if subject.kind is Kind.FILE:
        with reporting(f"reading {named(target)}") as note:
            jit, found = _read_dump(subject, region, names, whole, note)
    else:
        with opened(subject) as memory, reporting(f"reading {named(target)}") as note:
            command = command_of(subject)
            jit, found = _read(memory, subject, region, names, whole, note)
    about = str(subject) if subject.kind is Kind.PROCESS else f"{subject.kind_name} {named(target)}"
    origin = origin_of(about, jit, command)
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


class _Found(NamedTuple):
    """What was read of the process; nothing more is asked of it."""

    listed: list[Listed]
    explained: list[Explained]
    summary: Summary
    warnings: list[str]


def _read(
    memory: Memory, target: Target, region: str | None, names: Sequence[str], whole: bool, note: Note
) -> tuple[str, _Found]:
    """The name of the JITs, and their code, those explained that were asked for; all of one moment, if the process
    gives one."""
    is_process = target.kind is Kind.PROCESS
    sources = sources_of(target.pid) if is_process else sources_of_core(target.path)
    arch = memory.architecture
    jits = Jits(memory)
    for left in reversed(range(_TRIES)):
        began = time.monotonic()
        tables = tables_named(names, arch, lambda: Published(arch, memory), (Published.name,))
        explainer = Explainer(OfProcess(jits), tables, sources)
        with without_garbage_collection(), memory.gathered():  # there may be many, and none is garbage
            listed = explainer.listed(note)
        if not listed:
            raise _nothing(jits, target)
        found = _explained(explainer, listed, region, names, whole, note)
        steady = jits.is_current()
        if steady or not left or time.monotonic() - began > _SHORT_SECONDS:
            break
        jits = jits.renewed()
    found.warnings[:0] = jits.warnings
    if isinstance(memory, CoreFile):
        found.warnings.extend(memory.files.warnings)
    found.warnings.extend(
        f"{file} is newer than the {'process' if is_process else 'core'}: lines of it may be others than those "
        "that run"
        for file in sources.newer
    )
    if not steady:
        found.warnings.append("JIT code came or went while it was read: some of this may be out of date")
    return jits.name, found


def _nothing(jits: Jits, target: Target) -> JitunwindError:
    """Why there is nothing to explain."""
    if jits.problem is not None:
        return jits.problem
    return NothingToExplain(f"no JIT code is known in {target.text}: {jits.why_no_code()}")


def _read_dump(
    target: Target, region: str | None, names: Sequence[str], whole: bool, note: Note
) -> tuple[str, _Found]:
    """The name of the dump's JITs, and its code. BadDump."""
    dump = load(target.path)
    if not dump.codes:
        raise NothingToExplain(
            f"no JIT code in {target.text}", "take another dump: jitunwind dump PID -o FILE"
        )
    arch = dump.architecture
    tables = tables_named(names, arch, lambda: from_dump(arch, dump), (Published.name,))
    explainer = Explainer(OfDump(dump), tables, Sources(owner_of(target.path)))
    return dump.name, _explained(explainer, explainer.listed(note), region, names, whole, note)


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
