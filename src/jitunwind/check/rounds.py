"""One file's functions, judged in rounds until what they know of each other no longer grows.

The first round judges every function from the convention's entry state. What its flow says of other code
(the state in which it jumps into a cold part, the functions that never return) goes into the next.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from jitunwind.check.functions import Carried, Program, Report

Arrivals = dict[int, list[Carried]]
"""By offset in a function, the states in which other code jumps there."""
Job = tuple[int, Arrivals]
"""The FDE's index, and its arrivals."""
Run = Callable[[Sequence[Job], frozenset[int]], Iterable[Report]]
"""Judges each job, knowing the addresses of functions that never return; in any order."""

_ROUNDS = 8
_STATES = 4
"""States kept for one place at most."""


def in_turn(program: Program) -> Run:
    """Judges one job after another in this process."""

    def run(jobs: Sequence[Job], never: frozenset[int]) -> Iterable[Report]:
        return (program.judge(index, arrivals, never) for index, arrivals in jobs)

    return run


def judge_all(program: Program, run: Run) -> dict[int, Report]:
    """The last report of each FDE, by its index in `program.fdes`."""
    functions = {i for i in range(len(program.fdes)) if program.is_entry(i)}
    reports: dict[int, Report] = {}
    used: dict[int, Arrivals] = {index: {} for index in functions}
    never = program.never
    jobs: list[Job] = [(index, {}) for index in sorted(functions)]
    for _ in range(_ROUNDS):
        for report in run(jobs, never):
            reports[report.index] = report
        arrivals = _arrivals(program, functions, reports, used)
        dirty = {index for index, states in arrivals.items() if states != used.get(index)}
        found = never | _never_return(program, functions, reports)
        new = found - never
        never = found
        if new:
            dirty.update(r.index for r in reports.values() if not new.isdisjoint(r.callees))
        if not dirty:
            break
        used.update((index, arrivals.get(index, {})) for index in dirty)
        jobs = [(index, used[index]) for index in sorted(dirty)]
    left: list[Job] = [(index, {}) for index in range(len(program.fdes)) if index not in reports]
    reports.update((report.index, report) for report in run(left, never))
    return reports


def _arrivals(
    program: Program, functions: set[int], reports: dict[int, Report], used: dict[int, Arrivals]
) -> dict[int, Arrivals]:
    """Where the reports say that control arrives in other code; in a function, only where its own flow does
    not get."""
    found: defaultdict[int, defaultdict[int, set[Carried]]] = defaultdict(lambda: defaultdict(set))
    for report in reports.values():
        for address, state in report.carried:
            index = program.index_of(address)
            if index is None or index == report.index:
                continue
            offset = address - program.fdes[index].start
            if index in functions and offset not in used[index]:
                known = reports.get(index)
                if known is None or not any(start <= offset < end for start, end in known.unreached):
                    continue
            if len(found[index][offset]) < _STATES:
                found[index][offset].add(state)
    return {i: {o: sorted(s, key=repr) for o, s in places.items()} for i, places in found.items()}


def _never_return(program: Program, functions: set[int], reports: dict[int, Report]) -> set[int]:
    """The functions from which no path leads to a return, or to code of which that is not known."""
    callers: defaultdict[int, list[int]] = defaultdict(list)
    pending: list[int] = []
    for index, report in reports.items():
        targets = [program.index_of(address) for address in report.continues]
        known = [target for target in targets if target is not None and target in reports]
        if report.returns or report.comparison.wrong or len(known) < len(targets):
            pending.append(index)
        for target in known:
            callers[target].append(index)
    may_return: set[int] = set()
    while pending:
        index = pending.pop()
        if index not in may_return:
            may_return.add(index)
            pending.extend(callers[index])
    return {program.fdes[i].start for i in functions if i in reports and i not in may_return}
