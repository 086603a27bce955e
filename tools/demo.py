"""What plain GDB, py-spy, pystack and jitunwind say of one process that is stuck under JIT code: `make demo`.

For CPython 3.14 and 3.15 it prints what one_process.py has found, and judges it: how many C functions on the stack each
tool names, with the JIT on and off, and the registers of the JIT code's caller beside the true ones. It exits with 1
where jitunwind's answer is not whole and true, with 2 where it cannot do its work. What the other tools say, or that
they cannot run here, changes nothing in that.
"""

import argparse
import re
import subprocess
import sys
import time

from rich.console import Console
from rich.rule import Rule
from rich.syntax import Syntax
from rich.text import Text

from debian_packages import CannotError as NoInterpreter
from jitunwind.errors import JitunwindError
from jitunwind.gdbplugin.launch import find_gdb
from jitunwind.jits.cpython.versions import NAMES as VERSIONS
from one_process import (
    PATIENCE,
    PROGRAM,
    REGISTERS,
    Answer,
    CannotError,
    Look,
    interpreter,
    look,
    named,
)

LOST = re.compile(r"\?\? \(\)|\(\?\)|\?\?\? \(\?\?\?\)|Unable to merge")
"""Where a tool says that it does not know."""


def without_folders(line: str) -> str:
    return re.sub(r"(?<![\w./])/[^\s()\"]*/(?=[^\s/])", "", line)


def register_lines(found: Look) -> list[tuple[str, list[tuple[str, str]], str]]:
    """Each register's name, what plain GDB and jitunwind say with the verdict on it, and the truth."""
    lines = []
    for name in REGISTERS:
        truth = found.true_registers[name]
        said = [each.get(name, "unknown") for each in (found.plain_registers, found.jitunwind_registers)]
        lines.append((name, [(value, "right" if value == truth else "WRONG") for value in said], truth))
    return lines


def verdict(found: Look, said: Answer) -> str:
    """What a tool shows of the stack: the C functions that it names, and what it says of JIT code and registers."""
    if said.failure:
        return "no answer"
    parts = [f"{named(said, found.functions())} of {len(found.functions())}"]
    text = "\n".join(said.lines)
    if said.tool == "plain GDB":
        if made_up := found.made_up():
            parts.append(f"{made_up} frames made up")
        if "py::jit:executor" in text:
            parts.append("JIT code: one name")
        parts.append(f"{found.wrong(found.plain_registers)} of {len(REGISTERS)} registers WRONG")
    elif said.tool == "jitunwind":
        parts.append(", ".join(found.python_functions()))
        parts.append(f"{found.wrong(found.jitunwind_registers)} of {len(REGISTERS)} registers wrong")
    elif "Unable to merge" in text:
        parts.append("leaves the native stack out")
    elif unknown := re.search(r"\(\?\)|\?\?\? \(\?\?\?\)", text):
        parts.append(f"JIT code: `{unknown[0]}`")
    return "; ".join(parts)


def without_jit(found: Look, said: Answer) -> str:
    """The C functions that it names with the JIT off."""
    return "{} of {}".format(*found.off[said.tool]) if said.tool in found.off else ""


# --- showing it


def source(console: Console) -> None:
    text = Syntax("", "python", theme="ansi_dark").highlight(PROGRAM.read_text().rstrip("\n"))
    for number, line in enumerate(text.split("\n"), 1):
        console.print(Text.assemble((f"{number:4}  ", "dim"), line))


def answer(console: Console, said: Answer) -> None:
    console.print()
    console.print(
        Text.assemble((f"$ {said.command}", "bold"), (f"    # {said.tool} {said.version}".rstrip(), "dim"))
    )
    for line in map(without_folders, said.lines):
        style = "red" if LOST.search(line) else "bold green" if re.search(r"\bjit +\w", line) else ""
        console.print(Text(line, style))
    if said.failure:
        console.print(Text(f"{said.tool} gives no answer here: {said.failure}", "yellow"))


def register_table(console: Console, found: Look) -> None:
    console.print(
        Text("\nThe registers of the function that called the JIT code, and those it got back:", "bold")
    )
    console.print(f"{'':5}{'plain GDB':28}{'jitunwind':28}the truth")
    for name, said, truth in register_lines(found):
        line = Text(f"{name:5}")
        for value, verdict in said:
            line.append(f"{value:>18} ")
            line.append(f"{verdict:9}", "green" if verdict == "right" else "bold red")
        console.print(line.append(f"{truth:>18}"))


def verdicts(console: Console, found: Look) -> None:
    console.print(Text("\nThe C functions on the stack that each tool names:", "bold"))
    console.print(f"  {'':16}{'JIT off':10}JIT on")
    for said in found.answers:
        console.print(
            f"  {f'{said.tool} {said.version}':16}{without_jit(found, said):10}{verdict(found, said)}"
        )


def show(console: Console, gdb: str, version: str) -> bool:
    """The demonstration for one version; whether jitunwind's answer was whole and true."""
    found = interpreter(version)
    console.print()
    console.print(Rule(f"CPython {found.version}, JIT on", characters="─" if console.is_terminal else "-"))
    seen = look(gdb, found)
    for said in seen.answers:
        answer(console, said)
    register_table(console, seen)
    verdicts(console, seen)
    return seen.is_right()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("versions", nargs="*", default=VERSIONS, metavar="VERSION", help="such as 3.14")
    versions = parser.parse_args().versions
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    began = time.monotonic()
    try:
        gdb = find_gdb()
        console.print(Text("The program: tools/stuck.py", "bold"))
        source(console)
        good = [show(console, gdb, version) for version in versions]
    except (CannotError, NoInterpreter, JitunwindError) as error:
        hint = getattr(error, "hint", "")
        print(f"demo: error: {error}" + (f"; {hint}" if hint else ""), file=sys.stderr)
        return 2
    except subprocess.TimeoutExpired:
        print(f"demo: error: GDB or jitunwind did not end within {PATIENCE} s", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    console.print(
        f"\nDone in {time.monotonic() - began:.1f} s. On a process of your own: .venv/bin/jitunwind bt PID"
    )
    if not all(good):
        print("demo: error: jitunwind's answer is not whole and true", file=sys.stderr)
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
