"""sweep.c."""

from jitunwind.arch.effects import Step
from jitunwind.arch.x86_64.effects import _Context, _Form

def sweep(
    code: bytes,
    position: int,
    furthest: int,
    given: _Form | None,
    context: _Context,
    steps: list[Step],
    starts: list[int],
    /,
) -> tuple[int, int, int]: ...
