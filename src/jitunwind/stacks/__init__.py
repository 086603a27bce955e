"""Stacks of processes and cores without a debugger: stop, copy, let go; walk; name.

`jitunwind.stacks` is the function of `stacks.library`, and this room. So the room can be called, too: Python puts it in
the function's place when something is imported from it.
"""

import sys
from types import ModuleType
from typing import Any


class _Room(ModuleType):
    def __call__(self, *arguments: Any, **options: Any) -> Any:
        from jitunwind.stacks.library import stacks

        return stacks(*arguments, **options)


sys.modules[__name__].__class__ = _Room
