"""Machine code to unwind table: the one door to recovery, used by every consumer of rows."""

from collections.abc import Mapping
from functools import cache

from jitunwind.arch import Architecture, Convention
from jitunwind.recover.flow import Decoder, Flow, analyze
from jitunwind.recover.state import State, States
from jitunwind.rows import Row, Unknown, UnwindTable

NOT_REACHED = Unknown("no path from the region's entries reaches this")


def recover(
    arch: Architecture, code: bytes, decode: Decoder, entries: Mapping[int, Convention]
) -> UnwindTable:
    """The unwind table of one region: `code`, entered at each offset of `entries` by that convention.

    Each reachable instruction gets one row, or an `Unknown` that names the two paths that disagree; bytes
    that no path reaches get an `Unknown`, too. Never raises for strange code.

    Only the stack pointer and the kept registers are followed at first, which nearly all JIT code is content
    with; where that loses one, the code is analysed again with every register followed.
    """
    states = _states(arch)
    entry_states = {offset: states.entry(convention) for offset, convention in entries.items()}
    kept = frozenset(register for convention in entries.values() for register in convention.kept)
    flow = analyze(arch, states, code, decode, entry_states, kept | {arch.stack_pointer})
    if flow.disagreements or not _complete(flow):
        every = {*kept, *arch.callee_saved, *arch.caller_saved, arch.stack_pointer}
        flow = analyze(arch, states, code, decode, entry_states, every)
    return table_of(len(code), flow)


@cache
def _states(arch: Architecture) -> States:
    """Regions of one architecture share their states, too."""
    return States(arch)


def _complete(flow: Flow) -> bool:
    """Whether every state still has the CFA and each register that all entries keep."""
    return all(
        state.row is not None and all(state.keeps(register) for register in flow.kept)
        for state in set(flow.states.values())
    )


def table_of(size: int, flow: Flow) -> UnwindTable:
    """The rows of `flow`'s states, laid over [0, size)."""
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
    if state.row is not None and all(state.keeps(register) for register in flow.kept):
        return state.row
    if not flow.disagreements:
        return Unknown("no register gives the CFA")
    nearest = max((at for at in flow.disagreements if at <= offset), default=min(flow.disagreements))
    return Unknown(str(flow.disagreements[nearest]))
