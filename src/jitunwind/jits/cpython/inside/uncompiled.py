"""Keeps CPython's JIT off the publisher's own code.

What publishes is Python that becomes hot itself where a program goes on making executors. Each of its loops that is
compiled then is one more executor to publish, which makes it hotter still: seen to take a fifth of a program's time.

CPython decides when a loop or a function runs first whether it may ever be compiled: `JUMP_BACKWARD` becomes
`JUMP_BACKWARD_JIT` or `JUMP_BACKWARD_NO_JIT`, and on 3.15 `RESUME` one of `RESUME_CHECK_JIT` and `RESUME_CHECK`, by
whether the JIT is on (Python/bytecodes.c, _SPECIALIZE_JUMP_BACKWARD). Here that is decided for the functions of this
package, in their bytecode.
"""

import sys
from collections.abc import Iterable, Iterator
from functools import cache, cached_property
from types import CodeType, FunctionType, ModuleType
from typing import NamedTuple

from jitunwind.agent import agent
from jitunwind.jits.cpython.versions.record import Decision

_PACKAGE = __name__.partition(".")[0]
_WRAPPED = {
    staticmethod: "__func__",
    classmethod: "__func__",
    property: "fget",
    cached_property: "func",
    type(cache(len)): "__wrapped__",
}
"""Where what stands for a function has it."""

_met: set[object] = set()
"""The functions and classes that have been seen to."""
_modules: set[str] = set()
"""The modules of this package whose functions have been seen to."""
_imported = 0
"""How many modules of any package there were then."""


class _Opcodes(NamedTuple):
    """Those of a Decision's instructions."""

    undecided: int
    compiled: int
    uncompiled: int


def keep_uncompiled(bytecode_at: int, names: Iterable[Decision]) -> None:
    """Keep the functions of all modules of this package that are imported now from being compiled, but for what is
    compiled already.

    Code objects have their bytecode at `bytecode_at`; `names` are the decisions of this version. Nothing happens where
    CPython does not tell its opcodes. It is quick where nothing has been imported since it was called last.
    """
    global _imported
    if len(sys.modules) == _imported:
        return
    _imported = len(sys.modules)
    decisions = list(_opcodes(names))
    first = {__name__: sys.modules[__name__]}  # it gets hot itself here
    for name, module in {**first, **sys.modules}.items():
        if name.partition(".")[0] == _PACKAGE and name not in _modules:
            _modules.add(name)
            for function in _functions(module):
                _decide(function.__code__, decisions, bytecode_at)


def _opcodes(decisions: Iterable[Decision]) -> Iterator[_Opcodes]:
    try:
        from _opcode_metadata import _specialized_opmap, opmap  # type: ignore[import-not-found]
    except ImportError:
        return
    known = {**opmap, **_specialized_opmap}
    for decision in decisions:
        if all(name in known for name in decision):
            yield _Opcodes(*(known[name] for name in decision))


def _decide(code: CodeType, decisions: list[_Opcodes], bytecode_at: int) -> None:
    """In `code` and what is inside it. Bytecode is an opcode at each even offset, or a cache, which `co_code` has as
    zeros; there, too, are the opcodes before any decision."""
    opcodes = code.co_code[::2]
    for undecided, compiled, uncompiled in decisions:
        at = opcodes.find(undecided)
        while at != -1:
            agent.exchange(code, bytecode_at + 2 * at, undecided, compiled, uncompiled)
            at = opcodes.find(undecided, at + 1)
    for each in code.co_consts:
        if isinstance(each, CodeType):
            _decide(each, decisions, bytecode_at)


def _functions(module: ModuleType) -> Iterator[FunctionType]:
    """Those that are defined in `module`, by itself or in its classes, and have not been met before."""
    pending = list(vars(module).values())
    while pending:
        value = pending.pop()
        kind = type(value)
        if kind in _WRAPPED:
            pending.append(getattr(value, _WRAPPED[kind]))
        elif not isinstance(value, (type, FunctionType)):
            continue
        elif value.__module__ == module.__name__ and value not in _met:
            _met.add(value)
            if isinstance(value, type):
                pending += vars(value).values()
            else:
                yield value
