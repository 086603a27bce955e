"""GDB commands of the plugin's own: `info jit-regions` and `jit-rows`."""

import json
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import gdb

from jitunwind import notation
from jitunwind.arch import Architecture
from jitunwind.gdbplugin.decoding import disassembler, name_of_decoder
from jitunwind.gdbplugin.session import Session, session
from jitunwind.gdbplugin.symbols import synchronize
from jitunwind.jits import Code, codes_of
from jitunwind.jits.known import Jits
from jitunwind.rows import Row, Unknown, UnwindTable

_MOST_SHOWN = 10
"""Instructions that `jit-rows` shows around the program counter."""
_ALL = "--all"


class _InfoJitRegions(gdb.Command):
    """List the regions of JIT code: address, size, executor and name.

    info jit-regions [--json]
    Afterwards GDB knows the names and lines of all of them, not only of those that stacks lead to."""

    def __init__(self) -> None:
        super().__init__("info jit-regions", gdb.COMMAND_STATUS)

    def invoke(self, argument: str, from_tty: bool) -> None:
        if argument.strip() not in ("", "--json"):
            raise gdb.GdbError(f"info jit-regions takes --json, or nothing; not {argument.strip()}.")
        _, jits = _known()
        synchronize(everything=True)
        pieces = [(piece, code.owner) for code in codes_of(jits) for piece in jits.pieces(code)]
        if argument.strip() == "--json":
            listed: list[dict[str, Any]] = [
                {
                    "start": f"{piece.start:#x}",
                    "size": piece.size,
                    "kind": str(piece.kind),
                    "name": piece.name,
                    "executor": f"{owner:#x}" if owner else None,
                }
                for piece, owner in pieces
            ]
            gdb.write(json.dumps(listed) + "\n")
            return
        if not pieces:
            gdb.write("No JIT code.\n")
        else:
            gdb.write(f"{'Start':<18} {'Size':>8}  {'Executor':<18} Name\n")
        for piece, owner in pieces:
            executor = f"{owner:#x}" if owner else "-"
            gdb.write(f"{piece.start:#018x} {piece.size:>8}  {executor:<18} {piece.name}\n")
        for warning in jits.warnings:
            gdb.write(f"warning: {warning}\n")


class _JitRows(gdb.Command):
    """Show the unwind rows around $pc of the selected frame, with the ten instructions there.

    jit-rows [--all] [ADDRESS]
    ADDRESS: around that address. --all: of the whole region."""

    def __init__(self) -> None:
        super().__init__("jit-rows", gdb.COMMAND_STACK)

    def invoke(self, argument: str, from_tty: bool) -> None:
        current, jits = _known()
        first, _, rest = argument.strip().partition(" ")
        is_all = first == _ALL
        pc = _address(rest.strip() if is_all else argument.strip())
        code = jits.find(pc)
        if code is None:
            raise gdb.GdbError(f"No JIT code at {pc:#x}: info jit-regions lists where there is some.")
        table = current.table(code)
        part = next(piece for piece in jits.pieces(code) if pc in piece)
        decoder = name_of_decoder(jits.architecture)
        gdb.write(f"{part.name}: {part.size} bytes at {part.start:#x}; decoded by {decoder}\n")
        lines = _lines(table, code)
        shown = list(lines) if is_all else _around(pc - code.start, lines)
        row: Row | Unknown | None = None
        for line in shown:
            if line.row is not row:
                row = line.row
                gdb.write(f"{describe(row, jits.architecture)}\n")
            address = code.start + line.offset
            mark = "=>" if address == pc else "  "
            gdb.write(f"{mark} {address:#x} <+{address - part.start}>:\t{line.text}\n")
        if not is_all:
            for example, meaning in notation.legend(jits.architecture):
                gdb.write(f"({example}: {meaning})\n")
            gdb.write(f"(jit-rows {_ALL} shows the rows of the whole region)\n")
        for what, count in current.counts.items():
            gdb.write(f"unknown, {count} times: {what}\n")


class _Line(NamedTuple):
    """An instruction, and the row that holds there."""

    offset: int
    text: str
    row: Row | Unknown


def _lines(table: UnwindTable, code: Code) -> Iterator[_Line]:
    """The instructions of JIT code; of a stretch that has no row, one line in their place."""
    disassemble = disassembler(code.start)
    for start, end, row in table.spans():
        if isinstance(row, Unknown):
            yield _Line(start, f"{end - start} bytes", row)
        else:
            yield from (_Line(offset, text, row) for offset, _, text in disassemble(start, end))


def _around(offset: int, lines: Iterable[_Line]) -> list[_Line]:
    """The line of the instruction at `offset`, and its neighbours."""
    before: deque[_Line] = deque(maxlen=_MOST_SHOWN // 2 + 1)
    rest = iter(lines)
    for line in rest:
        if line.offset > offset:
            after = [line, *islice(rest, _MOST_SHOWN - len(before) - 1)]
            return [*before, *after]
        before.append(line)
    return list(before)


def _known() -> tuple[Session, Jits]:
    """The selected inferior and its JITs. GdbError where none is known."""
    if not gdb.selected_inferior().threads():
        raise gdb.GdbError("There is no process: run a program, attach to a process or open a core first.")
    current = session()
    jits = current.jits()
    if jits is None or (jits.problem is not None and not jits.has_code()):
        raise gdb.GdbError(f"No JIT code is known: {current.problem}")
    return current, jits


def _address(text: str) -> int:
    """What an expression of the user's comes to. GdbError where that is no address."""
    try:
        return int(gdb.parse_and_eval(text or "$pc")) & 0xFFFFFFFFFFFFFFFF
    except (gdb.error, TypeError, ValueError, OverflowError) as error:
        raise gdb.GdbError(
            f"{text or '$pc'} is no address: {error} Try jit-rows 0x1234, or jit-rows $pc."
        ) from None


def describe(row: Row | Unknown, arch: Architecture) -> str:
    """A row in one line: `CFA=rsp+16 ra=c-8 rbx=u rbp=c-16 …`."""
    return f"unknown: {row.reason}" if isinstance(row, Unknown) else notation.line(notation.parts(row, arch))


def install() -> None:
    """Register the commands."""
    _InfoJitRegions()
    _JitRows()
