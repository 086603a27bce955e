"""GDB commands of the plugin's own: `info jit-regions` and `jit-rows`."""

import json
from typing import Any

import gdb

from jitunwind.arch import Architecture
from jitunwind.gdbplugin.decoding import disassembler, name_of_decoder
from jitunwind.gdbplugin.session import session
from jitunwind.gdbplugin.symbols import synchronize
from jitunwind.rows import CfaRule, InRegister, RegisterRule, Row, SameValue, SavedAt, Unknown

_ROWS_AROUND = 2


class _InfoJitRegions(gdb.Command):
    """List the regions of JIT code: address, size, executor and name.

    info jit-regions [--json]
    Afterwards GDB knows the names and lines of all of them, not only of those that stacks lead to."""

    def __init__(self) -> None:
        super().__init__("info jit-regions", gdb.COMMAND_STATUS)

    def invoke(self, argument: str, from_tty: bool) -> None:
        current = session()
        regions = current.regions()
        if regions is None:
            raise gdb.GdbError(f"No JIT code is known: {current.problem}")
        synchronize(everything=True)
        parts = [
            part
            for start in regions.starts
            if (jit_code := regions.find(start)) is not None
            for part in regions.parts(jit_code)
        ]
        if argument.strip() == "--json":
            listed: list[dict[str, Any]] = [
                {
                    "start": f"{part.start:#x}",
                    "size": part.size,
                    "kind": str(part.kind),
                    "name": part.name,
                    "executor": f"{part.executor:#x}" if part.executor else None,
                }
                for part in parts
            ]
            gdb.write(json.dumps(listed) + "\n")
            return
        if not parts:
            gdb.write("No JIT code.\n")
        else:
            gdb.write(f"{'Start':<18} {'Size':>8}  {'Executor':<18} Name\n")
        for part in parts:
            executor = f"{part.executor:#x}" if part.executor else "-"
            gdb.write(f"{part.start:#018x} {part.size:>8}  {executor:<18} {part.name}\n")
        for warning in regions.warnings:
            gdb.write(f"warning: {warning}\n")


class _JitRows(gdb.Command):
    """Show the unwind rows around $pc of the selected frame, with the disassembly.

    jit-rows [ADDRESS]"""

    def __init__(self) -> None:
        super().__init__("jit-rows", gdb.COMMAND_STACK)

    def invoke(self, argument: str, from_tty: bool) -> None:
        current = session()
        regions = current.regions()
        if regions is None:
            raise gdb.GdbError(f"No JIT code is known: {current.problem}")
        pc = int(gdb.parse_and_eval(argument or "$pc")) & 0xFFFFFFFFFFFFFFFF
        jit_code = regions.find(pc)
        if jit_code is None:
            raise gdb.GdbError(f"No JIT code at {pc:#x}.")
        table = current.table(jit_code)
        part = next(part for part in regions.parts(jit_code) if pc in part)
        gdb.write(
            f"{part.name}: {part.size} bytes at {part.start:#x}; decoded by {name_of_decoder(regions.arch)}\n"
        )
        spans = list(table.spans())
        here = next(i for i, (start, end, _) in enumerate(spans) if start <= pc - jit_code.start < end)
        for start, end, row in spans[max(here - _ROWS_AROUND, 0) : here + _ROWS_AROUND + 1]:
            gdb.write(f"{describe(row, regions.arch)}\n")
            if isinstance(row, Unknown):
                continue
            for offset, _, text in disassembler(jit_code.start)(start, end):
                mark = "=>" if jit_code.start + offset == pc else "  "
                address = jit_code.start + offset
                gdb.write(f"{mark} {address:#x} <+{address - part.start}>:\t{text}\n")
        for what, count in current.counts.items():
            gdb.write(f"unknown, {count} times: {what}\n")


def describe(row: Row | Unknown, arch: Architecture) -> str:
    """A row in one line: `CFA=rsp+16 rbx=undefined rbp=CFA-16 … rip=CFA-8`."""
    if isinstance(row, Unknown):
        return f"unknown: {row.reason}"
    names = arch.register_names
    rules = " ".join(f"{names[register]}={_rule(rule, names)}" for register, rule in row.rules)
    return f"CFA={_cfa(row.cfa, names)} {rules}"


def _cfa(rule: CfaRule, names: tuple[str, ...]) -> str:
    return f"{names[rule.register]}{rule.offset:+d}"


def _rule(rule: RegisterRule, names: tuple[str, ...]) -> str:
    if isinstance(rule, SameValue):
        return "same"
    if isinstance(rule, SavedAt):
        return f"[CFA{rule.offset:+d}]"
    if isinstance(rule, InRegister):
        return names[rule.register]
    return "undefined"


def install() -> None:
    """Register the commands."""
    _InfoJitRegions()
    _JitRows()
