"""What an author of a JIT states about its code, which is then checked and not believed."""

from dataclasses import dataclass

from jitunwind.arch import Architecture
from jitunwind.arch.effects import Decoder
from jitunwind.errors import BrokenInvariant
from jitunwind.recover.flow import analyze
from jitunwind.recover.state import States
from jitunwind.recover.table import table_of
from jitunwind.rows import UNDEFINED, WORD, CfaRule, RegisterRule, Row, SavedAt, UnwindTable


@dataclass(frozen=True)
class FramePointer:
    """At each instruction the CFA is the frame pointer + `offset`, and the caller's frame pointer is where the frame
    pointer points. The return address is the word below the CFA, where a call puts it there (x86_64); else the word
    behind the caller's frame pointer, and not signed (AAPCS64, "The Frame Pointer"). Of other registers nothing is
    stated."""

    offset: int

    def checked(self, arch: Architecture, code: bytes, decode: Decoder) -> UnwindTable:
        """The table of such code: one row, and `Unknown`s where no path from the code's start leads.

        BrokenInvariant at the first instruction that is reached with another frame pointer, or with the words that
        it leads to overwritten.
        """
        pointer, states = arch.frame_pointer, States(arch)
        by_call = arch.entry_return
        return_at = by_call.offset if isinstance(by_call, SavedAt) else WORD - self.offset
        saved = {return_at: arch.return_address, -self.offset: pointer}
        rules: dict[int, RegisterRule] = dict.fromkeys(arch.callee_saved, UNDEFINED)
        rules.update((register, SavedAt(at)) for at, register in saved.items())
        row = Row(CfaRule(pointer, self.offset), tuple(sorted(rules.items())))
        entry = states.of_row(row)
        flow = analyze(arch, states, code, decode, {0: entry}, {pointer, arch.stack_pointer})
        for offset, state in sorted(flow.states.items()):
            if state.registers.get(pointer) != -self.offset or entry.slots.items() - state.slots.items():
                name = arch.register_names[pointer]
                raise BrokenInvariant(f"at +{offset:#x} the CFA is not {name} + {self.offset} any more")
        table = table_of(len(code), flow)
        return UnwindTable(
            table.size, table.offsets, [row if isinstance(each, Row) else each for each in table.rows]
        )


def frame_pointer(offset: int = 2 * WORD) -> FramePointer:
    """`table` of `publish` for code that always has a frame pointer: CFA = rbp + `offset`, or x29 + `offset`.

    Code that sets its frame pointer itself, in a prologue, is not of that kind: have it recovered.
    """
    return FramePointer(offset)
