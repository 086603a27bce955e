"""`jitunwind dump`: the JIT code of a process or a core, put into a file."""

from pathlib import Path

import click

from jitunwind.audit.subject import dump_of
from jitunwind.cli.output import print_warning, progress
from jitunwind.cpython.dump import save
from jitunwind.errors import JitunwindError


@click.command()
@click.argument("target", metavar="PID|CORE")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    required=True,
    help="Where to write it.",
)
@click.option(
    "--exe", type=click.Path(path_type=Path), metavar="PYTHON", help="The program that left the core."
)
def dump(target: str, output: Path, exe: Path | None) -> None:
    """Write the JIT code of a live process or a core into FILE, with its names and its published frames.

    FILE is an ELF object that objdump, readelf and GDB read, and that jitunwind audit --emulate and --static work
    on with no process. It holds machine code only, none of the program's data.
    """
    with progress(f"reading the JIT code of {target}"):
        found = dump_of(target, exe, print_warning)
    data = save(found)
    try:
        output.write_bytes(data)
    except OSError as error:
        raise JitunwindError(f"{output} cannot be written: {error.strerror}") from None
    click.echo(
        f"{output}: {len(found.codes)} regions, {sum(code.size for code in found.codes):,} bytes of machine code, "
        f"CPython {found.version}",
        err=True,
    )
