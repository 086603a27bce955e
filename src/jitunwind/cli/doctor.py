"""`jitunwind doctor`: what jitunwind finds on this machine and in a process, by which evidence, and what is missing."""

import importlib.util
import json
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import click

from jitunwind.agent import built
from jitunwind.cli.output import FOUND
from jitunwind.cli.verb import Verb, target_argument
from jitunwind.errors import AgentMissing, GdbMissing
from jitunwind.gdbplugin.launch import find_gdb, why_unfit
from jitunwind.jits.cpython.diagnosis import Finding, diagnose
from jitunwind.memory.targets import opened, target_of

_YAMA = Path("/proc/sys/kernel/yama/ptrace_scope")
_SCOPES = {"0": "any process of the same user", "1": "child processes only", "2": "root only", "3": "none"}


@click.command(cls=Verb)
@target_argument("[PID|CORE]", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def doctor(context: click.Context, target: str | None, as_json: bool) -> None:
    """Show what jitunwind finds, and the evidence.

    Without PID or CORE it looks at this machine. With one it looks at the CPython there, too: its version and build,
    whether its JIT is on, its executors, and how their offsets were found. Send this output with a bug report.

    Exit status: 0 nothing is missing; 1 there is advice; 2 the process or core cannot be read.
    """
    findings = [*_machine(), *(_target(target) if target is not None else ())]
    if as_json:
        click.echo(json.dumps({"findings": [each._asdict() for each in findings]}, indent=2))
    else:
        _show(findings)
    if any(each.advice for each in findings):
        context.exit(FOUND)


def _show(findings: list[Finding]) -> None:
    width = max(len(each.name) for each in findings)
    for each in findings:
        click.echo(f"{each.name:{width}}  {click.style(each.value, bold=True)}  ({each.evidence})")
        if each.advice:
            click.secho(f"{'':{width}}  {each.advice}", fg="yellow")


def _machine() -> list[Finding]:
    python = f"Python {platform.python_version()}, {os.uname().machine}"
    return [
        Finding("jitunwind", version("jitunwind"), f"{python}, {sys.executable}"),
        _agent(),
        _decoder(),
        _gdb(),
        _ptrace(),
    ]


def _agent() -> Finding:
    try:
        built.check()
    except AgentMissing as error:
        return Finding("agent", "not built: nothing can be published", str(error), str(error.hint))
    return Finding("agent", "built: run and enable can publish", built.AGENT)


def _decoder() -> Finding:
    """Whether what recovery can be quick by is here; all of it has a slower stand-in."""
    parts = {
        "iced-x86": "iced_x86",
        "sweep.c": "jitunwind.arch.x86_64.sweep",
        "straight.c": "jitunwind.recover.straight",
    }
    missing = [name for name, module in parts.items() if importlib.util.find_spec(module) is None]
    if missing:
        return Finding(
            "recovery", "slower", f"without {', '.join(missing)}", "install jitunwind where a C compiler is"
        )
    return Finding("recovery", "fast", ", ".join(parts))


def _gdb() -> Finding:
    try:
        path = find_gdb()
    except GdbMissing as error:
        return Finding("GDB", "none", "not needed by bt", str(error.hint))
    unfit = why_unfit(path)
    if unfit is not None:
        return Finding("GDB", "cannot load the plugin", unfit, "name another one: --gdb, or JITUNWIND_GDB")
    return Finding("GDB", "can load the plugin", path)


def _ptrace() -> Finding:
    if os.geteuid() == 0:
        return Finding("ptrace", "any process", "this user is root")
    try:
        scope = _YAMA.read_text().strip()
    except OSError:
        scope = "0"
    advice = "" if scope == "0" else "sudo, or sysctl kernel.yama.ptrace_scope=0"
    return Finding("ptrace", _SCOPES.get(scope, "not known"), f"kernel.yama.ptrace_scope={scope}", advice)


def _target(target: str) -> list[Finding]:
    with opened(target_of(target)) as memory:
        return diagnose(memory)
