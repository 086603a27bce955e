"""AArch64 assembly and C for tests, made by binutils' and GCC's cross tools; a comment `// sp+16 x29@-16 signed` behind
an instruction is the row that holds there, in the words of `tests/support/assembly.py`."""

import re
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from jitunwind.arch.aarch64.registers import AARCH64, NAMES
from jitunwind.rows import SAME_VALUE, InRegister, Row, SavedAt, Unknown, UnwindTable
from tests.support.assembly import Code

PREFIX = "aarch64-linux-gnu-"
_TRACKED = (*AARCH64.callee_saved, AARCH64.return_address)


@cache
def assemble(source: str) -> Code:
    """The machine code of `source`, at address 0."""
    lines, comments = [".arch armv8.5-a+sve+memtag+crypto+sha3"], {}
    for line in source.splitlines():
        text, mark, comment = line.partition("//")
        if mark:
            comments[f"row.{len(comments)}"] = comment.strip()
            text = f"row.{len(comments) - 1}: {text}"
        lines.append(text)
    with tempfile.TemporaryDirectory() as folder:
        made, raw = Path(folder, "made.o"), Path(folder, "raw")
        given = "\n".join(lines) + "\n"
        subprocess.run([f"{PREFIX}as", "-o", made, "-"], input=given, text=True, check=True)
        subprocess.run([f"{PREFIX}objcopy", "-O", "binary", "-j", ".text", made, raw], check=True)
        names = subprocess.run([f"{PREFIX}nm", made], capture_output=True, text=True, check=True).stdout
        labels = {
            name: int(at, 16) for at, name in re.findall(r"^([0-9a-f]{16}) t (\S+)$", names, re.MULTILINE)
        }
        rows = {labels.pop(name): comment for name, comment in comments.items()}
        return Code(raw.read_bytes(), labels, rows)


def compiled(path: Path, source: str, options: str) -> Path:
    """`path`, made of C."""
    command = [f"{PREFIX}gcc", "-w", *options.split(), "-o", str(path), "-x", "c", "-"]
    subprocess.run(command, input=source, text=True, check=True)
    return path


def told(row: Row | Unknown) -> str:
    """`row` in the words of the source's comments."""
    if isinstance(row, Unknown):
        return f"?{row.reason}"
    words = [f"{NAMES[row.cfa.register]}{row.cfa.offset:+d}"]
    for register in _TRACKED:
        rule, name = row.rule(register), NAMES[register]
        if isinstance(rule, SavedAt):
            words.append(f"{name}@{rule.offset:+d}")
        elif isinstance(rule, InRegister):
            words.append(f"{name}={NAMES[rule.register]}")
        elif rule != SAME_VALUE:
            words.append(f"{name}=lost")
    return " ".join([*words, *(["signed" + row.signed.key] if row.signed is not None else [])])


def wrong_rows(code: Code, table: UnwindTable) -> list[str]:
    """Where the table has another row than the source's comments."""
    assert code.rows, "the source tells no row"
    return [
        f"+{offset:#x}: {told(table.at(offset))}, wanted {wanted}"
        for offset, wanted in sorted(code.rows.items())
        if sorted(told(table.at(offset)).split()) != sorted(wanted.split())
    ]
