"""Sentences that the page and the terminal both say about regions and tables."""

from collections.abc import Sequence

from jitunwind.explain.model import Comparison, Listed
from jitunwind.wording import listed, runs


def about_running(regions: Sequence[Listed]) -> str:
    """Which regions run now, and how that is known; empty where nobody was asked."""
    if all(each.threads is None for each in regions):
        return ""
    known = "A thread's state names its innermost JIT code alone: jitunwind bt shows whole stacks."
    if not any(each.threads for each in regions):
        return f"No thread's state names one of these regions. {known}"
    return f"“runs”: the state of a thread names the region. {known}"


def name_and_place(region: Listed) -> tuple[str, str]:
    """`py::f` and `/path/of.py:12`, the line that the region begins with; without the line, or the place, where that is
    not known."""
    if region.begin is not None:
        file, number = region.begin
        return region.name.removesuffix(f":{file}"), f"{file}:{number}"
    name, _, file = region.name.partition(":/")
    return name, f"/{file}" if file else ""


def differing_everywhere(found: Comparison) -> str:
    """`rbx and r12 to r15 differ at every instruction`; `found.everywhere` is not empty."""
    return f"{listed(runs(list(found.everywhere)))} differ{'s' * (len(found.everywhere) == 1)} at every instruction"


def everywhere_pairs(found: Comparison) -> list[str]:
    """`rbx=s for c-56`, of each register that differs everywhere: what the table says, and what is recovered."""
    return [f"{register}={said} for {ours}" for register, (said, ours) in found.everywhere.items()]


ROWS_SHOW = "Rows below mark only other differences."
