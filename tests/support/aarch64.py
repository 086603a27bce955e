"""AArch64 assembly and C for tests, made by binutils' and GCC's cross tools; a comment `// sp+16 x29@-16 signed` behind
an instruction is the row that holds there, in the words of `tests/support/assembly.py`."""

import subprocess
from functools import cache
from pathlib import Path

from jitunwind.arch.aarch64.registers import AARCH64, NAMES
from jitunwind.rows import SAME_VALUE, InRegister, Row, SavedAt, Unknown, UnwindTable
from tests.support.assembly import Code, assembled

PREFIX = "aarch64-linux-gnu-"
_TRACKED = (*AARCH64.callee_saved, AARCH64.return_address)


@cache
def assemble(source: str) -> Code:
    """The machine code of `source`, at address 0."""
    directive = ".arch armv8.5-a+sve+memtag+crypto+sha3"
    return assembled(source, directive, "//", (f"{PREFIX}as",), PREFIX)


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
