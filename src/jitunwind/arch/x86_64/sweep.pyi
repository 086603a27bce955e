"""sweep.c."""

from jitunwind.arch.x86_64 import effects

sweep = effects._sweep

def table() -> object:
    """An empty one, from bytes to 32-bit numbers."""

def put(table: object, key: bytes, value: int) -> None:
    """Set the value of a key; keys of more than eight bytes are left to the dictionary beside it."""

def clear(table: object) -> None:
    """Empty it."""
