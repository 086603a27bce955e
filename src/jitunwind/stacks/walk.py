"""From a thread's registers to its frames: the walk from each frame to its caller, until there is none.

In comes a `Memory` that stands still and what knows the rules of each program counter, out come frames with their
registers, and why the walk ended where it did. Whatever the memory holds, it ends: each step must lead outwards.
"""

from collections.abc import Mapping
from struct import Struct
from typing import NamedTuple, Protocol

from jitunwind.dwarf.decode import Expression, FrameState
from jitunwind.dwarf.expression import evaluate_expression
from jitunwind.errors import MalformedFrames, UnreadableMemory
from jitunwind.memory import Mapping as MemoryMapping
from jitunwind.memory import Memory
from jitunwind.rows import CfaPlus, CfaRule, InRegister, SameValue, SavedAt, Undefined, Unknown
from jitunwind.stacks.native import NativeRules, NoRules, Rules
from jitunwind.stacks.snapshot import mapping_in

MOST_FRAMES = 100_000
_MASK = (1 << 64) - 1
_word = Struct("<Q").unpack_from
_WINDOW = 1 << 16


class RawFrame(NamedTuple):
    """A frame without names: its program counter, stack pointer, and the registers that are known there, by DWARF
    number. `at_pc`: it is at its program counter, rather than at the call before. `is_exact`: no rule on the way from
    the innermost frame was guessed."""

    pc: int
    sp: int
    registers: Mapping[int, int]
    at_pc: bool
    is_exact: bool


class Walked(NamedTuple):
    """Frames, the innermost first. `reason` says why there are no more: empty, where the last one has no caller."""

    frames: list[RawFrame]
    reason: str


class JitRules(Protocol):
    """Who knows the rules of JIT code."""

    def rules_at(self, pc: int, at_pc: bool) -> Rules | NoRules | None:
        """Those at `pc`, a program counter (`at_pc`) or a return address; None, where there is no JIT code."""

    def caller_of_unknown(self, frame: RawFrame) -> tuple[int, int] | None:
        """The CFA and return address of JIT code for which `rules_at` had none; None, where they are not known."""


class _Plan(NamedTuple):
    """A `Rules` taken apart, once for each program counter. `state` is where `saved` and `same` cannot say it all."""

    rules: Rules
    cfa_register: int
    cfa_offset: int
    same: tuple[int, ...]
    saved: tuple[tuple[int, int], ...]
    is_plain: bool
    is_bottom: bool


class Walker:
    """Walks the stacks of one process or core."""

    def __init__(self, memory: Memory, native: NativeRules, jit: JitRules | None) -> None:
        self._memory, self._native, self._jit = memory, native, jit
        self._arch = memory.architecture
        self._mappings = memory.mappings()
        self._plans: dict[tuple[int, bool], _Plan | NoRules] = {}
        self._jit_plans: set[tuple[int, bool]] = set()
        """The keys of those in `_plans` that are of JIT code, or that there was no code for."""
        self._is_code: dict[int, bool] = {}
        self._words = Words(memory)

    def memory_has_changed(self, code_too: bool) -> None:
        """To be told between two walks, if the process has run. `code_too`: JIT code or mappings may have changed."""
        self._words = Words(self._memory)
        if code_too:
            self._mappings = self._memory.mappings()
            self._is_code.clear()
            for key in self._jit_plans:
                self._plans.pop(key, None)
            self._jit_plans.clear()

    def walk(self, registers: Mapping[int, int]) -> Walked:
        """The frames of a thread with these registers, by DWARF number."""
        frame = self._frame(registers, at_pc=True, is_exact=True)
        frames: list[RawFrame] = []
        seen: set[tuple[int, int]] = set()
        while (frame.pc, frame.sp) not in seen:
            seen.add((frame.pc, frame.sp))
            frames.append(frame)
            if len(frames) >= MOST_FRAMES:
                return Walked(frames, f"there are more than {MOST_FRAMES} frames")
            caller = self._caller_of(frame)
            if isinstance(caller, str):
                return Walked(frames, caller)
            frame = caller
        return Walked(frames, "the stack goes in a circle")

    def _frame(self, registers: Mapping[int, int], at_pc: bool, is_exact: bool) -> RawFrame:
        pc, sp = registers[self._arch.program_counter], registers[self._arch.stack_pointer]
        return RawFrame(pc, sp, registers, at_pc, is_exact)

    def _caller_of(self, frame: RawFrame) -> RawFrame | str:
        """The caller; or why there is none: empty, where the frame is the outermost."""
        plan = self._plans.get((frame.pc, frame.at_pc)) or self._plan(frame.pc, frame.at_pc)
        if isinstance(plan, NoRules):
            found = self._by_jit_alone(frame)
            return found if found is not None else plan.reason
        if plan.is_bottom:
            return ""
        try:
            caller = self._caller(plan, frame.registers)
        except UnreadableMemory as error:
            return f"memory cannot be read: {error}" if plan.rules.is_exact else self._why_guessed(frame)
        except KeyError as error:
            return f"{self._name(error.args[0])} is not known, which the next frame needs"
        except MalformedFrames as error:
            return f"the unwind information is damaged: {error}"
        reason = self._wrong(plan.rules, frame, caller)
        if reason is not None:
            return reason
        return self._frame(caller, plan.rules.is_signal, frame.is_exact and plan.rules.is_exact)

    def _by_jit_alone(self, frame: RawFrame) -> RawFrame | None:
        """The caller of JIT code that has no rules, as far as the JIT knows it; None, where it does not."""
        arch = self._arch
        found = self._jit.caller_of_unknown(frame) if self._jit is not None else None
        if found is None or found[0] <= frame.sp:
            return None
        caller = {arch.stack_pointer: found[0], arch.program_counter: found[1]}
        caller[arch.frame_pointer] = frame.registers[arch.frame_pointer]
        return self._frame(caller, at_pc=False, is_exact=frame.is_exact)

    def _wrong(self, rules: Rules, frame: RawFrame, caller: Mapping[int, int]) -> str | None:
        """Why `caller` cannot be the caller of `frame`; empty, if that has none; None, if it can."""
        arch = self._arch
        pc, sp = caller.get(arch.program_counter), caller[arch.stack_pointer]
        if pc is None:
            return "the return address is not known"
        if rules.is_signal:  # what was interrupted may be on another stack, and have jumped anywhere
            return None
        if not rules.is_exact and not (sp > frame.sp and self._can_be_returned_to(pc) and sp % 8 == 0):
            return self._why_guessed(frame)
        if pc == 0:  # a frame without a caller says so; zeros are what is missing from a core, as of gcore's
            return "the return address is 0: this part of the stack may not be stored"
        if sp < frame.sp:
            return f"the caller's stack pointer {sp:#x} is below {frame.sp:#x}"
        if not self._can_be_returned_to(pc):
            return f"the return address {pc:#x} is in no code"
        return None

    def _why_guessed(self, frame: RawFrame) -> str:
        mapping = mapping_in(self._mappings, frame.pc)
        if mapping is None or not mapping.executable:
            return f"{frame.pc:#x} is in no code"
        problem = self._native.problem_at(frame.pc)
        why = f" ({problem})" if problem else ""
        return f"no unwind information for {mapping.path or 'the code'} at {frame.pc:#x}{why}, and no frame pointer"

    def _can_be_returned_to(self, address: int) -> bool:
        found = self._is_code.get(address)
        if found is None:
            mapping: MemoryMapping | None = mapping_in(self._mappings, address - 1)
            found = self._is_code[address] = mapping is not None and mapping.executable
        return found

    def _name(self, register: int) -> str:
        names = self._arch.register_names
        return names[register] if register < len(names) else f"register {register}"

    def _plan(self, pc: int, at_pc: bool) -> _Plan | NoRules:
        """The one there, from now on among `_plans`."""
        rules = self._jit.rules_at(pc, at_pc) if self._jit is not None else None
        if rules is not None:
            self._jit_plans.add((pc, at_pc))
        else:
            rules = self._native.at(pc, at_pc)
            if isinstance(rules, NoRules) or not rules.is_exact:
                self._jit_plans.add((pc, at_pc))
        found = self._plans[pc, at_pc] = rules if isinstance(rules, NoRules) else self._taken_apart(rules)
        return found

    def _taken_apart(self, rules: Rules) -> _Plan | NoRules:
        state, most = rules.state, self._arch.program_counter
        if isinstance(state.cfa, Unknown):
            return NoRules(state.cfa.reason)
        general = [(register, rule) for register, rule in state.rules if register <= most]
        same = tuple(register for register, rule in general if isinstance(rule, SameValue))
        saved = tuple((register, rule.offset) for register, rule in general if isinstance(rule, SavedAt))
        others = any(isinstance(rule, (InRegister, Expression, CfaPlus)) for _, rule in general)
        at_expression = isinstance(state.cfa, Expression)
        register, offset = (0, 0) if isinstance(state.cfa, Expression) else state.cfa
        is_plain = not others and not at_expression and state.signed is None
        return _Plan(rules, register, offset, same, saved, is_plain, self._is_bottom(state))

    def _is_bottom(self, state: FrameState) -> bool:
        """Whether the frame has no caller: its return address is said to be undefined, as in `_start` and `clone`."""
        arch, rules = self._arch, dict(state.rules)
        back = rules.get(arch.program_counter) or rules.get(arch.return_address)
        return back is None or isinstance(back, Undefined)

    def _caller(self, plan: _Plan, registers: Mapping[int, int]) -> dict[int, int]:
        """The caller's registers, its program counter among them where it is known. KeyError for a register that is
        not known; UnreadableMemory, MalformedFrames."""
        arch, word = self._arch, self._words.word
        state = plan.rules.state
        if isinstance(state.cfa, CfaRule):
            cfa = registers[plan.cfa_register] + plan.cfa_offset & _MASK
        else:
            assert isinstance(state.cfa, Expression)
            cfa = evaluate_expression(state.cfa.code, registers, word)
        caller = {register: registers[register] for register in plan.same if register in registers}
        caller[arch.stack_pointer] = cfa
        for register, offset in plan.saved:
            caller[register] = word(cfa + offset & _MASK)
        if not plan.is_plain:
            self._other_rules(plan, cfa, registers, caller)
        back = arch.return_address
        if back != arch.program_counter and back in caller:
            caller.setdefault(arch.program_counter, caller[back])
        return caller

    def _other_rules(
        self, plan: _Plan, cfa: int, registers: Mapping[int, int], caller: dict[int, int]
    ) -> None:
        state, arch = plan.rules.state, self._arch
        for register, rule in state.rules:
            if register > arch.program_counter:
                continue
            if isinstance(rule, InRegister):
                if rule.register in registers:
                    caller[register] = registers[rule.register]
            elif isinstance(rule, CfaPlus):
                caller[register] = cfa + rule.offset & _MASK
            elif isinstance(rule, Expression):
                place = evaluate_expression(rule.code, registers, self._words.word, cfa)
                caller[register] = place if rule.is_value else self._words.word(place)
        if state.signed is not None and state.signed.register in caller:
            caller[state.signed.register] = arch.without_signature(caller[state.signed.register])


class Words:
    """Words of a memory that stands still, read by larger pieces: neighbours are asked for one after the other."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._start = 0
        self._data: bytes | memoryview = b""
        self._last = -1
        """The last offset in `_data` at which a word begins."""

    def word(self, address: int) -> int:
        """The 64-bit word at `address`. UnreadableMemory."""
        within = address - self._start
        if not 0 <= within <= self._last:
            if not self._move_to(address):
                return self._memory.word(address)
            within = address - self._start
        found: int = _word(self._data, within)[0]
        return found

    def _move_to(self, address: int) -> bool:
        """Take the piece in which the word at `address` lies; whether that was possible."""
        start, data = self._memory.piece(address, _WINDOW)
        if address - start + 8 > len(data):
            return False
        self._start, self._data, self._last = start, data, len(data) - 8
        return True
