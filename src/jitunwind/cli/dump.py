"""`jitunwind dump`: the JIT code of a process or a core, put into a file."""

import sys
from pathlib import Path

import click

from jitunwind.audit.subject import dump_of
from jitunwind.cli.files import Output, OutputFile
from jitunwind.cli.output import print_warning, progress
from jitunwind.cli.verb import Verb, named, target_argument
from jitunwind.jits.dump import save
from jitunwind.memory.targets import target_of


@click.command(cls=Verb, prints=False)
@target_argument("PID|CORE")
@click.option(
    "-o",
    "--output",
    type=OutputFile(),
    metavar="FILE",
    required=True,
    help="Where to write it; -: to stdout.",
)
@click.option(
    "--exe",
    type=click.Path(path_type=Path),
    metavar="PYTHON",
    help="The program that left the core.  [default: as the core says]",
)
def dump(target: str, output: Output, exe: Path | None) -> None:
    """Write the JIT code of a process or a core into a file.

    It has the names of the code, too, and its published frames. FILE is an ELF object that objdump, readelf and GDB
    read, and that jitunwind audit --emulate and --static work on with no process. It holds machine code only, none
    of the program's data.

    Exit status: 0 written; 2 the input cannot be used, there is no JIT code, or FILE cannot be written.
    """
    if output.is_stdout and sys.stdout.isatty():
        raise click.UsageError("a dump is binary, and stdout is a terminal: name a file, or redirect stdout")
    with progress(f"reading the JIT code of {named(target)}"):
        found = dump_of(target_of(target, str(exe) if exe else None), print_warning)
    output.write(save(found))
    regions = f"{len(found.codes):,} region{'s'[: len(found.codes) != 1]}"
    size = sum(code.size for code in found.codes)
    click.echo(f"{output}: {regions}, {size:,} bytes of machine code, {found.name}", err=True)
