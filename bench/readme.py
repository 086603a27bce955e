"""README.md's proof, made anew: what each tool shows of one stuck process of each CPython. `make readme` runs it."""

import re
import sys
from datetime import UTC, datetime

from support import ROOT, put_into

sys.path.append(str(ROOT / "tools"))

from demo import register_lines, verdict, without_folders, without_jit
from jitunwind.gdbplugin.launch import find_gdb
from jitunwind.jits.cpython.versions import NAMES as VERSIONS
from one_process import REGISTERS, Answer, Look, interpreter, look

CUT = "…"
SHOWN_AFTER, LAST = 3, 4
"""Of jitunwind's page: the lines shown after the outermost JIT frame, and the last ones."""


def excerpt(lines: list[str]) -> list[str]:
    """The lines of jitunwind's page but for those between the outermost JIT frames and the end."""
    jit = max(number for number, line in enumerate(lines) if re.search(r"\bjit +\w", line))
    until = jit + 1 + SHOWN_AFTER
    return [*lines[:until], CUT, *lines[-LAST:]] if until + LAST < len(lines) else lines


def around_jit_code(found: Look, said: Answer) -> list[str]:
    """Plain GDB's frames around the one where it loses the way: the innermost in JIT code."""
    counter = next(frame["pc"] for frame in found.stack if frame["kind"] == "jit")
    at = next(number for number, line in enumerate(said.lines) if f"{int(counter, 16):#018x}" in line)
    return [*([CUT] if at > 2 else []), *said.lines[max(at - 2, 0) : at + 4], CUT]


def shown(found: Look, said: Answer) -> list[str]:
    if said.failure:
        raise SystemExit(f"{said.tool} gives no answer: {said.failure}")
    if said.tool == "plain GDB":
        lines = around_jit_code(found, said)
    elif said.tool == "py-spy":
        lines = said.lines[said.lines.index("") + 1 :]
    else:
        lines = excerpt(said.lines) if said.tool == "jitunwind" else said.lines
    return [f"$ {said.command}", *map(without_folders, lines)]


def comparison(looks: list[Look]) -> str:
    headings = [f"CPython {each.python}, JIT {state}" for each in looks for state in ("off", "on")]
    rows = [["C functions named", *headings], ["---"] * (1 + len(headings))]
    for answers in zip(*(each.answers for each in looks), strict=True):
        cells = [f"{answers[0].tool} {answers[0].version}"]
        for each, said in zip(looks, answers, strict=True):
            cells += [without_jit(each, said), verdict(each, said)]
        if answers[0].tool == "jitunwind":
            cells = [f"**{cell}**" if cell else "–" for cell in cells]
        rows.append(cells)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def register_table(found: Look) -> str:
    lines = [f"{'':5}{'plain GDB':28}{'jitunwind':28}the truth"]
    for name, said, truth in register_lines(found):
        lines.append(
            f"{name:5}" + "".join(f"{value:>18} {verdict:9}" for value, verdict in said) + f"{truth:>18}"
        )
    return "\n".join(lines)


def main() -> None:
    gdb = find_gdb()
    looks = [look(gdb, interpreter(version)) for version in VERSIONS]
    for each in looks:
        if not each.is_right():
            raise SystemExit(f"jitunwind's answer is not whole and true on {each.python}")
    first, last = looks[0], looks[-1]
    stacks = "\n\n".join("\n".join(shown(first, said)) for said in first.answers)
    wrong = last.wrong(last.plain_registers)
    put_into(
        ROOT / "README.md",
        f"""\
{comparison(looks)}

The process on CPython {first.python}, {datetime.now(UTC):%Y-%m-%d}; {CUT} is for lines left out, and so are folders:

```text
{stacks}
```

The registers of the C function that called the JIT code, and what it got back. Plain GDB finds that function on CPython
{last.python}, with {wrong} of {len(REGISTERS)} registers wrong:

```text
{register_table(last)}
```
""",
    )


if __name__ == "__main__":
    main()
