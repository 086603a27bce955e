"""Calls of C, by the part of ctypes that is C itself.

`ctypes` imports `threading` on CPython 3.14, which a program would see: `threading.main_thread` is the thread that
imports it first. So do structures, with `_ctypes`, too; arrays of words do not. Nor is a C callback made of a Python
function: libffi then keeps a file open.
"""

import _ctypes
from _ctypes import Array as Array
from _ctypes import CFuncPtr, _SimpleCData
from _ctypes import addressof as addressof
from _ctypes import byref as byref
from _ctypes import get_errno as get_errno


class U64(_SimpleCData):  # type: ignore[type-arg]
    _type_ = "L"


class Int(_SimpleCData):  # type: ignore[type-arg]
    _type_ = "i"


class SignedSize(_SimpleCData):  # type: ignore[type-arg]
    _type_ = "l"


class Pointer(_SimpleCData):  # type: ignore[type-arg]
    _type_ = "P"


class Object(_SimpleCData):  # type: ignore[type-arg]
    _type_ = "O"


class Byte(_SimpleCData):  # type: ignore[type-arg]
    _type_ = "c"


class Function(CFuncPtr):
    """A C function that returns an int, called with the GIL held."""

    _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_PYTHONAPI
    _restype_ = Int


class FunctionWithoutGil(CFuncPtr):
    """The same, called without the GIL."""

    _flags_ = _ctypes.FUNCFLAG_CDECL
    _restype_ = Int


class SizeFunction(CFuncPtr):
    """One that returns a signed size, called with the GIL held; `get_errno` has what it left there."""

    _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_PYTHONAPI | _ctypes.FUNCFLAG_USE_ERRNO
    _restype_ = SignedSize


class Library:
    """A shared object, which stays loaded; of the program and what it has loaded, without a path. OSError."""

    def __init__(self, path: str | None = None) -> None:
        self._handle = _ctypes.dlopen(path, _ctypes.RTLD_LOCAL)  # type: ignore[arg-type]

    def address(self, name: str) -> int | None:
        """The address of a symbol."""
        try:
            return _ctypes.dlsym(self._handle, name)
        except OSError:
            return None

    def function(self, name: str, kind: type[CFuncPtr] = Function) -> CFuncPtr:
        """OSError, if there is none of that name."""
        return kind(_ctypes.dlsym(self._handle, name))


def in_main_interpreter() -> bool:
    """Whether this is no subinterpreter."""
    program = Library()
    current, main = (
        program.function(f"PyInterpreterState_{which}", SizeFunction)() for which in ("Get", "Main")
    )
    return bool(current == main)


def buffer(size: int) -> Array[Byte]:
    """Memory of that size; its bytes are `bytes(buffer)`."""
    return (Byte * size)()


def bytes_in_c(data: bytes) -> Array[Byte]:
    """A copy of `data` that has an address, as long as it lives."""
    return (Byte * len(data)).from_buffer_copy(data)
