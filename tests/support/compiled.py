"""Files that gcc makes of C and of assembler, for tests that check files."""

import platform
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

needs_gcc = pytest.mark.skipif(
    shutil.which("gcc") is None or platform.machine() != "x86_64", reason="needs gcc on x86_64"
)


def compiled(path: Path, source: str, options: str = "-O2 -c", language: str = "c") -> Path:
    """`path`, made of `source` in `language` (gcc's -x: c, assembler)."""
    command = ["gcc", "-w", *options.split(), "-o", str(path), "-x", language, "-"]
    subprocess.run(command, input=source, text=True, check=True)
    return path


def real_code(count: int, length: int) -> Iterator[bytes]:
    """`count` stretches of gcc's own machine code, each a byte longer than the one before; the first has `length`."""
    program = Path(shutil.which("gcc") or pytest.fail("needs gcc"))
    with program.open("rb") as file:
        text = ELFFile(file).get_section_by_name(".text").data()
    for index in range(count):
        start = index * (len(text) // count)
        yield text[start : start + length + index]
