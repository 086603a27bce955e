"""Native unwinding of JIT code in Python processes."""

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
