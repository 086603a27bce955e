"""Sentences that the page and the terminal both say about regions and tables."""

from collections.abc import Mapping, Sequence

from jitunwind.explain.model import Comparison, Listed


def about_running(regions: Sequence[Listed]) -> str:
    """Which regions run now, and how that is known; empty where nobody was asked."""
    if all(each.threads is None for each in regions):
        return ""
    known = (
        "Threads say this of themselves, and were not stopped for it. They name the innermost JIT code alone: "
        "jitunwind bt shows whole stacks."
    )
    if not any(each.threads for each in regions):
        return f"No thread says that it runs one of these regions now. {known}"
    return f"“runs”: a thread says that it runs the region now. {known}"


def differing_everywhere(found: Comparison) -> str:
    """`rbx, r12 to r15 differ at every instruction`; `found.everywhere` is not empty."""
    return f"{joined(found.everywhere)} differ{'s' * (len(found.everywhere) == 1)} at every instruction"


def everywhere_text(found: Comparison) -> str:
    """What differs everywhere, for which the rows below are not marked."""
    pairs = ", ".join(f"{register}={said} for {ours}" for register, (said, ours) in found.everywhere.items())
    return f"{pairs}. Rows below show what differs besides."


def joined(names: Mapping[str, object]) -> str:
    """`rbx, rbp and r12 to r15`."""
    runs: list[list[str]] = []
    for name in names:
        last = runs[-1][-1] if runs else ""
        if _is_next(last, name):
            runs[-1].append(name)
        else:
            runs.append([name])
    said = [f"{run[0]} to {run[-1]}" if len(run) > 2 else " and ".join(run) for run in runs]
    return ", ".join(said) if len(said) < 2 or " " in said[-1] else f"{', '.join(said[:-1])} and {said[-1]}"


def _is_next(before: str, name: str) -> bool:
    """Whether `name` is the numbered register behind `before`."""
    kind, number = name[:1], name[1:]
    return number.isdigit() and before == f"{kind}{int(number) - 1}"
