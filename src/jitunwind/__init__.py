"""Native unwinding of JIT code in Python processes."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jitunwind.agent.library import Statistics, statistics
    from jitunwind.errors import JitunwindError
    from jitunwind.jits.cpython.inside.follow import disable, enable, flush, is_enabled, problems
    from jitunwind.publishing.invariant import frame_pointer
    from jitunwind.publishing.publication import Publication, publish
    from jitunwind.region import Line, Region, RegionKind
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
    from jitunwind.stacks.library import stacks
    from jitunwind.stacks.model import Frame, FrameKind, Stacks, Thread

__all__ = [
    "CfaRule",
    "Frame",
    "FrameKind",
    "InRegister",
    "JitunwindError",
    "Line",
    "Publication",
    "Region",
    "RegionKind",
    "RegisterRule",
    "Row",
    "SameValue",
    "SavedAt",
    "Stacks",
    "Statistics",
    "Thread",
    "Undefined",
    "Unknown",
    "UnwindTable",
    "disable",
    "enable",
    "evaluate",
    "flush",
    "frame_pointer",
    "is_enabled",
    "problems",
    "publish",
    "stacks",
    "statistics",
]

_ELSEWHERE = {
    "Frame": "stacks.model",
    "FrameKind": "stacks.model",
    "JitunwindError": "errors",
    "Line": "region",
    "Publication": "publishing.publication",
    "Region": "region",
    "RegionKind": "region",
    "Stacks": "stacks.model",
    "Statistics": "agent.library",
    "Thread": "stacks.model",
    "disable": "jits.cpython.inside.follow",
    "enable": "jits.cpython.inside.follow",
    "flush": "jits.cpython.inside.follow",
    "frame_pointer": "publishing.invariant",
    "is_enabled": "jits.cpython.inside.follow",
    "problems": "jits.cpython.inside.follow",
    "publish": "publishing.publication",
    "stacks": "stacks.library",
    "statistics": "agent.library",
}


def __getattr__(name: str) -> Any:
    """The public names, imported when they are asked for: the command line starts faster without them."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ELSEWHERE.get(name, 'rows')}"), name)
