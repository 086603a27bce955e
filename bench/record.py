"""What a benchmark prints, put into a section of a page, with the date and the versions that it was made with.

    python bench/record.py PAGE SECTION COMMAND...

COMMAND's lines go to the terminal as they come; the page is changed when it has ended well.
"""

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

from support import VERSIONS, generated_by, interpreter, put_into

from jitunwind.gdbplugin.launch import find_gdb


def _others() -> str:
    """The versions of what the benchmarks run."""
    asked = [[find_gdb(), "--version"], *([interpreter(version), "--version"] for version in VERSIONS)]
    said = [subprocess.run(each, capture_output=True, text=True, check=True).stdout for each in asked]
    return f"Run were {', '.join(each.splitlines()[0] for each in said)}."


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("section", help="as the page's marks name it")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND")
    options = parser.parse_args()
    process = subprocess.Popen([sys.executable, *options.command], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line)
    if process.wait() == 0:
        made = f"{generated_by(shlex.join(options.command))} {_others()}"
        put_into(options.page, f"{made}\n\n```text\n{''.join(lines).strip()}\n```\n", options.section)
    return process.returncode


if __name__ == "__main__":
    sys.exit(main())
