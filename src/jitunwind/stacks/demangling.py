"""C++ and Rust names as people write them, where this machine has the C++ runtime's demangler.

In comes a symbol's name, out goes the function's; other names come back as they are. The demangler is
`__cxa_demangle` of libstdc++ (Itanium C++ ABI, section 5.1), which every machine that runs C++ has.
"""

import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ctypes import CDLL

_LIBRARY = "libstdc++.so.6"
_MANGLED = ("_Z", "__Z", "___Z")
_LONGEST = 1 << 12
"""Bytes of a name that is handed to the demangler: it recurses."""
_RUST_HASH = re.compile(r"::h[0-9a-f]{16}$")
_RUST_ESCAPES = {"$LT$": "<", "$GT$": ">", "$RF$": "&", "$BP$": "*", "$LP$": "(", "$RP$": ")", "$C$": ","}
_RUST_UNICODE = re.compile(r"\$u([0-9a-f]{1,6})\$")


@lru_cache(maxsize=4096)
def demangled(name: str, with_parameters: bool) -> str:
    """The name of a function, `with_parameters` or without (`f(int)`, `f`)."""
    if not name.startswith(_MANGLED) or len(name) > _LONGEST:
        return name
    import ctypes  # takes 20 ms; most names are C's

    library = _library()
    if library is None:
        return name
    status = ctypes.c_int()
    result = library.__cxa_demangle(name.encode(), None, None, ctypes.byref(status))
    if not result:
        return name
    try:
        text = ctypes.string_at(result).decode(errors="replace")
    finally:
        _free(result)
    if _RUST_HASH.search(text):
        return _rust(_RUST_HASH.sub("", text))
    return text if with_parameters else without_parameters(text)


def without_parameters(function: str) -> str:
    """`a::f` for `a::f(int) const`: cut before the last parenthesis that opens at the outermost level."""
    end = function.rfind(")")
    depth = 0
    for index in range(end, 0, -1):
        depth += (function[index] == ")") - (function[index] == "(")
        if function[index] == "(" and not depth:
            return function[:index]
    return function


def _rust(text: str) -> str:
    """What Rust's legacy mangling escapes (rustc, `symbol_names/legacy.rs`)."""
    for escape, character in _RUST_ESCAPES.items():
        text = text.replace(escape, character)
    text = _RUST_UNICODE.sub(lambda match: chr(int(match[1], 16)), text).replace("..", "::")
    return re.sub(r"(^|::)_(?=<)", r"\1", text)


@lru_cache(maxsize=1)
def _library() -> "CDLL | None":
    import ctypes

    try:
        library = ctypes.CDLL(_LIBRARY)
        library.__cxa_demangle.restype = ctypes.c_void_p
        library.__cxa_demangle.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    except (OSError, AttributeError):
        return None
    return library


def _free(pointer: int) -> None:
    import ctypes

    free = ctypes.CDLL(None).free
    free.argtypes, free.restype = [ctypes.c_void_p], None
    free(pointer)
