"""Assembly for tests: annotated source in, machine code and expected rows out, and both shown side by side.

Source is in Intel syntax. A comment behind an instruction is the row that holds there, before it runs:
`CFA register+offset`, then each register whose rule is not the one at entry: `rbx@-16` (saved at CFA-16),
`rbx=rax` (in rax), `rbx=lost` (undefined). `?words` is an `Unknown` whose reason has these words.
"""

import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from jitunwind.arch.x86_64.registers import NAMES, RETURN_ADDRESS, X86_64
from jitunwind.rows import SAME_VALUE, InRegister, RegisterRule, Row, SavedAt, Unknown, UnwindTable

_NAMES = (*NAMES[:RETURN_ADDRESS], "ra")
_AT_ENTRY: dict[int, RegisterRule] = dict.fromkeys(X86_64.callee_saved, SAME_VALUE)
_AT_ENTRY[RETURN_ADDRESS] = X86_64.entry_return


@dataclass(frozen=True)
class Code:
    """`labels`: name -> offset; `rows`: offset -> what the source says of the row there."""

    bytes: bytes
    labels: Mapping[str, int] = field(default_factory=dict)
    rows: Mapping[int, str] = field(default_factory=dict)


@cache
def assemble(source: str) -> Code:
    """The machine code of `source`, at address 0."""
    return assembled(source, ".intel_syntax noprefix", "#", ("as", "--64"))


def assembled(source: str, directive: str, mark: str, assembler: Sequence[str], tools: str = "") -> Code:
    """The machine code of `source` by `assembler`, which is told `directive` first; `mark` begins its comments, `tools`
    the names of binutils."""
    lines, comments = [directive], {}
    for line in source.splitlines():
        text, found, comment = line.partition(mark)
        if found:
            comments[f"row.{len(comments)}"] = comment.strip()
            text = f"row.{len(comments) - 1}: {text}"
        lines.append(text)
    with tempfile.TemporaryDirectory() as folder:
        made, raw = Path(folder, "made.o"), Path(folder, "raw")
        given = "\n".join(lines) + "\n"
        subprocess.run([*assembler, "-o", made, "-"], input=given, text=True, check=True)
        subprocess.run([f"{tools}objcopy", "-O", "binary", "-j", ".text", made, raw], check=True)
        names = subprocess.run([f"{tools}nm", made], capture_output=True, text=True, check=True).stdout
        symbols = re.findall(r"^([0-9a-f]{16}) t (\S+)$", names, re.MULTILINE)
        labels = {name: int(offset, 16) for offset, name in symbols}
        rows = {labels.pop(name): comment for name, comment in comments.items()}
        return Code(raw.read_bytes() if raw.exists() else b"", labels, rows)


@cache
def disassembly(code: bytes, syntax: str = "intel") -> tuple[tuple[int, str], ...]:
    """(offset, instruction) of `code` decoded in one sweep; `syntax` is "intel" or "att"."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(code)
        file.flush()
        command = ["objdump", "-D", "-w", "-b", "binary", "-m", "i386:x86-64", "-M", syntax, file.name]
        listing = subprocess.run([*command, "--no-show-raw-insn"], capture_output=True, text=True, check=True)
    found = re.findall(r"^\s*([0-9a-f]+):\t(.*?)\s*$", listing.stdout, re.MULTILINE)
    return tuple((int(offset, 16), text) for offset, text in found)


def told(row: Row | Unknown) -> str:
    """`row` in the words of the source's comments."""
    if isinstance(row, Unknown):
        return f"?{row.reason}"
    words = [f"{_NAMES[row.cfa.register]}{row.cfa.offset:+d}"]
    for register in sorted({*_AT_ENTRY, *(register for register, _ in row.rules)}):
        rule, name = row.rule(register), _NAMES[register]
        if rule == _AT_ENTRY.get(register):
            continue
        if isinstance(rule, SavedAt):
            words.append(f"{name}@{rule.offset:+d}")
        elif isinstance(rule, InRegister):
            words.append(f"{name}={_NAMES[rule.register]}")
        else:
            words.append(f"{name}={'same' if rule == SAME_VALUE else 'lost'}")
    return " ".join(words)


def _agrees(got: str, wanted: str) -> bool:
    return wanted[1:] in got[1:] if got[0] == wanted[0] == "?" else got == wanted


def side_by_side(code: bytes, got: UnwindTable, wanted: Mapping[int, str]) -> str:
    """The disassembly, the row at each instruction, and the wanted one where it is another."""
    texts = dict(disassembly(code))
    lines = []
    for offset in sorted({*texts, *wanted}):
        row = told(got.at(offset))
        other = wanted.get(offset, row)
        mark = "" if _agrees(row, other) else f"   WANTED {other}"
        lines.append(f"{offset:#6x}  {texts.get(offset, '(inside)'):36} {row}{mark}")
    return "\n".join(lines)


def check_rows(code: Code, table: UnwindTable) -> None:
    """Each row that the source's comments tell is the table's."""
    assert code.rows, "the source tells no row"
    wrong = [at for at, wanted in code.rows.items() if not _agrees(told(table.at(at)), wanted)]
    assert not wrong, "\n" + side_by_side(code.bytes, table, code.rows)


def check_form(table: UnwindTable, size: int) -> None:
    """The table covers [0, size) without gaps, and no two neighbouring rows are equal."""
    assert table.size == size
    assert list(table.offsets) == sorted(set(table.offsets))
    assert len(table.offsets) == len(table.rows)
    assert not size or table.offsets[0] == 0
    assert all(0 <= offset < size for offset in table.offsets)
    assert all(one != other for one, other in zip(table.rows, table.rows[1:], strict=False))
    assert all(isinstance(row, Row | Unknown) for row in table.rows)
