"""straight.c."""

from jitunwind.recover.state import State

def skip(
    constant: tuple[object, ...], index: int, mark: int, state: State | None, previous: int, call: int | None
) -> tuple[int, int, State | None, int, int | None]:
    """Take steps from `index` on, up to the end or to one at which something is to be decided; where it is then."""
