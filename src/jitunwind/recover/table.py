"""Machine code to unwind table: the one door to recovery, used by every consumer of rows."""

from collections.abc import Callable, Collection, Mapping
from functools import cache
from itertools import pairwise

from jitunwind.arch import Architecture
from jitunwind.arch.effects import Decoder
from jitunwind.arch.known import module
from jitunwind.recover.flow import Flow, NoReturn, analyze
from jitunwind.recover.state import State, States
from jitunwind.rows import InRegister, Row, Undefined, Unknown, UnwindTable

NOT_REACHED = Unknown("no path from the region's entries reaches this")

MOST_STEPS = 1 << 25
"""Of one analysis, some seconds: the largest region of a debug build, half a megabyte, takes a tenth of that."""


Boundaries = Callable[[], Collection[int]]
"""Offsets at which code that was made piece by piece is in the state of its last entry, as its JIT promises."""


def recover(
    arch: Architecture,
    code: bytes,
    decode: Decoder,
    entries: Mapping[int, Row],
    boundaries: Boundaries | None = None,
) -> UnwindTable:
    """The unwind table of one region: `code`, entered at each offset of `entries` in the state that its row describes
    (`Architecture.at_entry` has that of a function's start).

    Each reachable instruction gets one row, or an `Unknown` that names the two paths that disagree; bytes
    that no path reaches get an `Unknown`, too. Never raises for strange code.

    Each entry is taken for a function of its own at first, in which only the stack pointer and the registers it
    keeps are tracked; nearly all JIT code is content with that. Where that loses one, or one function's paths
    lead into another, the code is analysed again, as a whole and with every register tracked.

    Where paths disagree, `boundaries` are asked for, if there are any: then a disagreement costs what comes before the
    next boundary, and not all behind it. They are believed if the code keeps to them wherever its paths agree.
    """
    flow = flow_of(arch, code, decode, entries)
    table = table_of(len(code), flow)
    if not flow.disagreements or boundaries is None:
        return table
    fixed = _kept_to(table, boundaries(), entries[max(entries)])
    if not fixed:
        return table
    states = _states(arch)
    known = dict.fromkeys(fixed, entries[max(entries)]) | dict(entries)
    flow = analyze(
        arch,
        states,
        code,
        decode,
        {offset: states.of_row(row) for offset, row in known.items()},
        _every_register(arch, entries),
        no_return=NoReturn(code=code, callee_of=module(arch, "calls").callee_of),
        most_steps=MOST_STEPS,
        fixed=fixed,
    )
    return table if flow.problem else table_of(len(code), flow)


def _kept_to(table: UnwindTable, boundaries: Collection[int], row: Row) -> set[int]:
    """The boundaries that are reached; none, if `row` is not right at one of them that is known, or too few are."""
    found = {offset: table.at(offset) for offset in boundaries if 0 <= offset < table.size}
    known = [each for each in found.values() if isinstance(each, Row)]
    if len(known) < _ENOUGH_BOUNDARIES or any(each != row for each in known):
        return set()
    return {offset for offset, each in found.items() if each != NOT_REACHED}


_ENOUGH_BOUNDARIES = 2


def _every_register(arch: Architecture, entries: Mapping[int, Row]) -> set[int]:
    known = (register for row in entries.values() for register in known_at_entry(row))
    return {*known, *arch.callee_saved, *arch.caller_saved, arch.return_address, arch.stack_pointer}


def flow_of(arch: Architecture, code: bytes, decode: Decoder, entries: Mapping[int, Row]) -> Flow:
    """What `recover` makes the table of: for those who want to know every place where a value is."""
    states = _states(arch)
    entry_states = {offset: states.of_row(row) for offset, row in entries.items()}
    no_return = NoReturn(code=code, callee_of=module(arch, "calls").callee_of)
    flow = _separately(arch, states, code, decode, entries, entry_states, no_return)
    if flow is None:
        every = _every_register(arch, entries)
        flow = analyze(
            arch, states, code, decode, entry_states, every, no_return=no_return, most_steps=MOST_STEPS
        )
    return flow


@cache
def known_at_entry(row: Row) -> tuple[int, ...]:
    """The registers that matter to who enters code there: those whose values are known, and those that lead to them."""
    known = [register for register, rule in row.rules if not isinstance(rule, Undefined)]
    holders = [rule.register for _, rule in row.rules if isinstance(rule, InRegister)]
    return (row.cfa.register, *known, *holders)


def _separately(
    arch: Architecture,
    states: States,
    code: bytes,
    decode: Decoder,
    entries: Mapping[int, Row],
    entry_states: Mapping[int, State],
    no_return: NoReturn,
) -> Flow | None:
    """The flows of the entries' functions, put together; None where that is not the whole truth."""
    whole = Flow()
    called: dict[int, State] = {}
    for start, end in pairwise([*sorted(entries), len(code)]):
        entry = {start: entry_states[start]}
        tracked = {arch.stack_pointer, arch.return_address, *known_at_entry(entries[start])}
        flow = analyze(
            arch,
            states,
            code,
            decode,
            entry,
            tracked,
            no_return=no_return,
            callees=entry_states,
            enters_calls=False,
            most_steps=MOST_STEPS,
        )
        if flow.problem:
            return flow
        stays = not flow.states or start <= min(flow.states) <= max(flow.states) < end
        if flow.disagreements or not stays or not _complete(flow):
            return None
        whole.add(flow)
        called.update(dict.fromkeys(flow.called, states.entry(arch.platform)))
    if not called:
        return whole
    # Veneers and their like, which keep more than a body does. They stand behind what calls them.
    behind = max((*whole.states, *(end - 1 for end in whole.ends)))
    tracked = {arch.stack_pointer, arch.return_address, *arch.callee_saved}
    flow = analyze(
        arch,
        states,
        code,
        decode,
        called,
        tracked,
        no_return=no_return,
        callees=entry_states,
        most_steps=MOST_STEPS,
    )
    if flow.problem:
        return flow
    if flow.disagreements or not _complete(flow) or min(flow.states) <= behind:
        return None
    whole.add(flow)
    return whole


@cache
def _states(arch: Architecture) -> States:
    """Regions of one architecture share their states, too."""
    return States(arch)


def _complete(flow: Flow) -> bool:
    """Whether every state still has the CFA and each register that all entries keep."""
    return all(
        state.row is not None and all(state.keeps(register) for register in flow.preserved)
        for state in set(flow.states.values())
    )


def table_of(size: int, flow: Flow) -> UnwindTable:
    """The rows of `flow`'s states, laid over [0, size)."""
    if flow.problem:
        return UnwindTable(size, [0], [Unknown(flow.problem)])
    offsets: list[int] = []
    rows: list[Row | Unknown] = []
    last: Row | Unknown | None = None
    for offset in sorted({0, *flow.states, *flow.ends}):
        if offset >= size:
            break
        state = flow.states.get(offset)
        if state is None:
            row: Row | Unknown = NOT_REACHED
        elif state.row is None or flow.disagreements:
            row = _row_or_reason(state, flow, offset)
        else:
            row = state.row
        if row is not last and not (isinstance(row, Unknown) and row == last):  # rows are one object each
            offsets.append(offset)
            rows.append(row)
            last = row
    return UnwindTable(size, offsets, rows)


def _row_or_reason(state: State, flow: Flow, offset: int) -> Row | Unknown:
    """The row, unless a disagreement of paths has cost it something that the entry had."""
    if state.row is not None and all(state.keeps(register) for register in flow.preserved):
        return state.row
    if not flow.disagreements:
        return Unknown("no register gives the CFA")
    nearest = max(
        (at for at in flow.disagreements if at <= offset),
        default=min(flow.disagreements),
    )
    return Unknown(str(flow.disagreements[nearest]))
