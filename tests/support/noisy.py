"""A GDB that prints a warning before every frame, as GDB 13 does on some machines: tests must not need silence.

`JITUNWIND_NOISY_GDB=1` has all tests run with such GDBs. To have one yourself: `python tests/support/noisy.py GDB FILE`
writes it to FILE.
"""

import os
import shutil
import sys
from pathlib import Path

FOLDER = "JITUNWIND_NOISY_FOLDER"
"""The variable that says where they lie."""
WARNING = "warning: Section `.reg-xstate/1' in core file too small."
"""What GDB 13 says of a core whose processor has more registers than it knows."""
_INSIDE = f"""
import gdb
import re

def noisy(execute):
    # What Python code has GDB say comes before it as text, and never on standard output.
    def noisily(command, from_tty=False, to_string=False):
        said = execute(command, from_tty, to_string)
        return re.sub(r"^(?=#[0-9])", lambda at: {WARNING + chr(10)!r}, said, flags=re.M) if to_string else said
    return noisily

gdb.execute = noisy(gdb.execute)
"""


def write(gdb: str, file: Path) -> str:
    """Make `file` a GDB that is `gdb`, and noisy. It is the same process as that; only its output goes through sed."""
    inside, outside = file.with_name(f"{file.name}.py"), file.with_name(f"{file.name}.sed")
    inside.write_text(_INSIDE)
    outside.write_text(f"/^#[0-9]/i\\\n{WARNING}\n")
    file.write_text(f'#!/bin/bash\nexec {gdb} -iex "source {inside}" "$@" > >(exec sed -u -f {outside})\n')
    file.chmod(0o755)
    return str(file)


def put_on_path(folder: Path) -> None:
    """Have the GDBs on PATH be noisy ones, which lie in `folder`, for this process and its children."""
    for name in ("gdb", "gdb-multiarch"):
        found = shutil.which(name)
        if found is not None:
            write(found, folder / name)
    os.environ[FOLDER] = str(folder)
    os.environ["PATH"] = os.pathsep.join([str(folder), os.environ["PATH"]])


if __name__ == "__main__":
    write(sys.argv[1], Path(sys.argv[2]).absolute())
