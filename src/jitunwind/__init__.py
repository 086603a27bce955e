"""Native unwinding of JIT code in Python processes."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jitunwind.errors import JitunwindError
    from jitunwind.region import Region, RegionKind
    from jitunwind.rows import (
        CfaRule,
        InRegister,
        RegisterRule,
        Row,
        SameValue,
        SavedAt,
        Undefined,
        Unknown,
        UnwindTable,
        evaluate,
    )

__all__ = [
    "CfaRule",
    "InRegister",
    "JitunwindError",
    "Region",
    "RegionKind",
    "RegisterRule",
    "Row",
    "SameValue",
    "SavedAt",
    "Undefined",
    "Unknown",
    "UnwindTable",
    "evaluate",
]

_ELSEWHERE = {"JitunwindError": "errors", "Region": "region", "RegionKind": "region"}


def __getattr__(name: str) -> Any:
    """The public names, imported when they are asked for: the command line starts faster without them."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ELSEWHERE.get(name, 'rows')}"), name)
