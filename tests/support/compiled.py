"""Files that gcc makes of C and of assembler, for tests that check files."""

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

needs_gcc = pytest.mark.skipif(
    shutil.which("gcc") is None or platform.machine() != "x86_64", reason="needs gcc on x86_64"
)


def compiled(path: Path, source: str, options: str = "-O2 -c", language: str = "c") -> Path:
    """`path`, made of `source` in `language` (gcc's -x: c, assembler)."""
    command = ["gcc", "-w", *options.split(), "-o", str(path), "-x", language, "-"]
    subprocess.run(command, input=source, text=True, check=True)
    return path
