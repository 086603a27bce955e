"""Keeps CPython's JIT off the publisher's own code.

What publishes is Python that becomes hot itself where a program goes on making executors. Each of its loops that is
compiled then is one more executor to publish, which makes it hotter still: seen to take a fifth of a program's time.

CPython decides when a loop runs first whether it may ever be compiled: `JUMP_BACKWARD` becomes
`JUMP_BACKWARD_JIT` or `JUMP_BACKWARD_NO_JIT`, by whether the JIT is on (Python/bytecodes.c, _SPECIALIZE_JUMP_BACKWARD).
So the functions of this package get code objects in which that is decided already. On 3.15 functions may be
compiled from their entry, too; that stays so, as CPython knows where a function begins by its `RESUME`.
"""

import sys
from collections.abc import Iterator
from operator import is_
from types import CodeType, FunctionType, ModuleType

_PACKAGE = __name__.partition(".")[0]
_WRAPPED = ("__func__", "__wrapped__", "fget", "func")
"""Where static methods, cached functions, properties and cached properties have their function."""

_met: set[int] = set()
"""The functions and classes that have been seen to, by id: they live as long as their modules."""


def keep_uncompiled() -> None:
    """Keep the functions of all modules of this package that are imported now from being compiled; nothing happens
    where CPython does not tell the names of its instructions."""
    opcodes = _decided()
    if opcodes is None:
        return
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == _PACKAGE:
            for function in _functions(module):
                code = _with_decided_loops(function.__code__, *opcodes)
                if code is not function.__code__:
                    function.__code__ = code


def _decided() -> tuple[int, int] | None:
    """The opcode of a loop that is not decided yet, and that of one that is not to be compiled."""
    try:
        from _opcode_metadata import _specialized_opmap, opmap  # type: ignore[import-not-found]

        return opmap["JUMP_BACKWARD"], _specialized_opmap["JUMP_BACKWARD_NO_JIT"]
    except (ImportError, KeyError):
        return None


def _functions(module: ModuleType) -> Iterator[FunctionType]:
    """Those that are defined in `module`, by itself or in its classes, and have not been met before."""
    pending = list(vars(module).values())
    while pending:
        value = pending.pop()
        if not isinstance(value, type | FunctionType):
            pending += filter(None, (getattr(value, name, None) for name in _WRAPPED))
        elif value.__module__ == module.__name__ and id(value) not in _met:
            _met.add(id(value))
            if isinstance(value, type):
                pending += vars(value).values()
            else:
                yield value


def _with_decided_loops(code: CodeType, undecided: int, decided: int) -> CodeType:
    """`code` and what is inside it with `decided` in the place of `undecided`; itself, where it has no loop.
    Bytecode is an opcode at each even offset, or zeros (a cache)."""
    constants = tuple(
        _with_decided_loops(each, undecided, decided) if isinstance(each, CodeType) else each
        for each in code.co_consts
    )
    opcodes = code.co_code[::2]
    if undecided not in opcodes and all(map(is_, constants, code.co_consts)):
        return code
    bytecode = bytearray(code.co_code)
    bytecode[::2] = opcodes.replace(bytes([undecided]), bytes([decided]))
    return code.replace(co_code=bytes(bytecode), co_consts=constants)
