"""x86_64 disassembly to the effects that unwinding cares about: the decoder for where there is no iced-x86.

In come the lines of a disassembler of the binutils family (GDB's, objdump's), in AT&T or Intel syntax; out
come the same steps that `effects.decode` finds in the bytes. GDB's own Python calls it. A mnemonic that is
not known here counts as one that writes every register it names, and all of them but rsp if it names none.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

from jitunwind.arch.effects import (
    HUGE,
    NO_EFFECTS,
    Assign,
    Clobber,
    Control,
    Decoded,
    Effect,
    Effects,
    Exchange,
    Load,
    Step,
    Store,
    assign,
    clobber,
    effects,
    load,
    store,
)
from jitunwind.arch.x86_64.registers import (
    NAMES,
    R11,
    RAX,
    RBP,
    RBX,
    RCX,
    RDI,
    RDX,
    RSI,
    RSP,
)
from jitunwind.rows import WORD

Line = tuple[int, int, str]
"""An instruction: its offset from the code's start, its length in bytes, its text."""

Disassemble = Callable[[int, int], Iterable[Line]]
"""(first offset, offset behind the last byte) -> the instructions that start there, in rising order."""

_CHUNK = 1024

_CODE_END = 1 << 64


class _Operand(NamedTuple):
    """A register (`size` in bytes, `number` for a general one), or memory (`base` the number of its 64-bit
    base register), an immediate (`value`), or something else of which only the text is known."""

    text: str
    number: int | None = None
    size: int = 0
    memory: bool = False
    base: int | None = None
    offset: int = 0
    indexed: bool = False
    segment: str = ""
    value: int | None = None


def _registers() -> dict[str, tuple[int | None, int]]:
    """Register name -> DWARF number (None for vector and segment registers) and bytes."""
    found: dict[str, tuple[int | None, int]] = {}
    for number, name in enumerate(NAMES[:16]):
        found[name] = (number, 8)
        if name[1].isdigit():
            for suffix, size in (("d", 4), ("w", 2), ("b", 1), ("l", 1)):
                found[name + suffix] = (number, size)
        else:
            stem = name[1:]
            low = stem[0] + "l" if stem[1] == "x" else stem + "l"
            found |= {"e" + stem: (number, 4), stem: (number, 2), low: (number, 1)}
            if stem[1] == "x":
                found[stem[0] + "h"] = (number, 1)
    for number in range(32):
        found |= {f"xmm{number}": (None, 16), f"ymm{number}": (None, 32), f"zmm{number}": (None, 64)}
    found |= {f"mm{number}": (None, 8) for number in range(8)}
    found |= {segment + "s": (None, 2) for segment in "cdefgs"}
    return found


_REGISTERS = _registers()
_NUMBER = r"-?(?:0x[0-9a-f]+|[1-9]\d*|0)"
_INTEGER = re.compile(_NUMBER)
_ATT_OPERAND = re.compile(r"[^,(]*(?:\([^)]*\))?[^,]*")
_ATT_MEMORY = re.compile(
    rf"\*?(?:%(\w+):)?({_NUMBER})?\((?:%(\w+))?(?:,(?:%(\w+))?(?:,\d)?)?\)|\*?(?:%(\w+):)?({_NUMBER})$"
)
_INTEL_MEMORY = re.compile(rf"(?:(\w+) (?:PTR|BCST) )?(?:(\w\w):)?(?:\[([^]]*)\]|({_NUMBER}))?")
_INTEL_TERM = re.compile(r"([+-]?)([^+-]+)")
_INTEL_SIZES = {"BYTE": 1, "WORD": 2, "DWORD": 4, "FWORD": 6, "QWORD": 8, "TBYTE": 10}
_INTEL_SIZES |= {"OWORD": 16, "XMMWORD": 16, "YMMWORD": 32, "ZMMWORD": 64}


def _integer(text: str | None) -> int:
    """A number as the disassembler writes it, 64-bit two's complement, as a signed one."""
    value = int(text or "0", 0)
    return value - (1 << 64) if value >> 63 == 1 else value


def _att_operand(text: str) -> _Operand:
    if text.startswith("$"):
        return _Operand(text, value=_integer(text[1:]) if _INTEGER.fullmatch(text, 1) else None)
    found = _ATT_MEMORY.match(text)
    if found:
        segment, offset, base, index, only_segment, absolute = found.groups()
        if base in ("rip", "eip") or absolute is not None:
            return _Operand(text, memory=True, segment=segment or only_segment or "")
        number, width = _REGISTERS.get(base or "", (None, 0))
        return _Operand(
            text,
            memory=True,
            base=number if width == WORD else None,
            offset=_integer(offset),
            indexed=index not in (None, "riz", "eiz"),
            segment=segment or "",
        )
    number, size = _REGISTERS.get(re.split(r"[{ ]", text.lstrip("*%"), maxsplit=1)[0], (None, 0))
    return _Operand(text, number, size)


def _intel_operand(text: str) -> _Operand:
    number, size = _REGISTERS.get(text.split("{")[0].strip(), (None, 0))
    if size:
        return _Operand(text, number, size)
    found = _INTEL_MEMORY.match(text)
    if found is None or not found.group():
        return _Operand(text)
    unit, segment, terms, absolute = found.groups()
    if not (unit or segment or terms):
        return _Operand(text, value=_integer(absolute))
    base, offset, indexed = None, 0, False
    for sign, term in _INTEL_TERM.findall(terms or ""):
        if "*" in term:
            indexed = indexed or term[:3] not in ("riz", "eiz")
        elif _INTEGER.fullmatch(term):
            offset = _integer(sign + term)
        else:
            number, width = _REGISTERS.get(term, (None, 0))
            indexed = indexed or base is not None
            base = number if width == WORD else None
    return _Operand(
        text,
        size=_INTEL_SIZES.get(unit, 0),
        memory=True,
        base=base,
        offset=offset,
        indexed=indexed,
        segment=segment or "",
    )


_PREFIX = re.compile(
    r"(?:(rep(?:n?[ez])?)|rex\S*|\{\w+\}|lock|bnd|notrack|data(?:16|32)|addr(?:16|32)|xacquire|xrelease|[c-gs]s)"
    r"(?:\s+|$)"
)
_DECORATION = re.compile(r"\s*[#<].*", re.DOTALL)


def _words(text: str) -> tuple[bool, str, str]:
    """Whether the instruction is repeated, its mnemonic ("" where there are only prefixes), its operands."""
    repeated, rest = False, _DECORATION.sub("", text).strip()
    while prefix := _PREFIX.match(rest):
        repeated = repeated or prefix[1] is not None
        rest = rest[prefix.end() :]
    word, _, operands = rest.partition(" ")
    return repeated, word.partition(",")[0], operands.strip()


# Where control goes. Targets are numbers; everything else that a jump or call names is indirect.

_DIRECT = re.compile(r"(?:0x)?([0-9a-f]+)\b")
_CONTROLS = (
    (re.compile(r"l?jmp[wlq]?|jmpf|jmpabs"), Control.JUMP),
    (re.compile(r"l?call[wlq]?|callf"), Control.CALL),
    (re.compile(r"j(?!mp)[a-z]+|loop[a-z]*"), Control.BRANCH),
    (re.compile(r"(ret|lret|retf|iret|sysret|sysexit|uiret|rsm|eret[us])[bwlqfd]?"), Control.RETURN),
    (re.compile(r"\(bad\)|hlt|int[13o]?|icebp|ud[012][ab]?"), Control.HALT),
)


def _control(mnemonic: str) -> Control:
    for pattern, control in _CONTROLS:
        if pattern.fullmatch(mnemonic):
            return control
    return Control.NEXT


def _target(operands: str, base: int) -> int | None:
    found = _DIRECT.match(operands.removeprefix("$"))
    if found is None:
        return None
    target = (int(found[1], 16) - base) % _CODE_END
    return target - _CODE_END if target >> 63 else target


_PUSH_NEXT = effects(Store(RSP, -WORD, None, WORD), Assign(RSP, RSP, -WORD))
_DIRECTED = frozenset((Control.JUMP, Control.CALL, Control.BRANCH))
_ENDS = frozenset((Control.JUMP, Control.RETURN, Control.HALT))


# What instructions do. Operands come in Intel's order, the destination first.

_SUFFIXED = re.compile(
    r"(mov|add|sub|adc|sbb|and|or|xor|cmp|test|not|neg|inc|dec|sh[lr]|sa[lr]|ro[lr]|rc[lr]|bt[src]?|i?mul|i?div"
    r"|lea|pushf?|popf?|leave|enter|xchg|xadd|cmpxchg|sh[lr]d)([bwlq]?)"
)
"""Mnemonics that AT&T syntax may give a suffix for the operands' size."""
_SUFFIXES = {"": 0, "b": 1, "w": 2, "d": 4, "l": 4, "q": 8}

_TO_FIRST = re.compile(
    r"mov|movabs|movnti|movdiri|mov[sz][bwlx][wlqd]?|movsxd|add|sub|adc|sbb|and|or|xor|not|neg|inc|dec|lea|shld|shrd|imul"
    r"|shl|sal|shr|sar|rol|ror|rcl|rcr|cmov[a-z]+|set[a-z]+|bt[src]|bs[fr]|[tl]zcnt|popcnt|andn|bextr|bzhi"
    r"|bls(i|r|msk)|pdep|pext|rorx|s(ar|hl|hr)x|ad[co]x|crc32|movbe|bswap|v?mov[dq]|v?p(ins|ext)r[bwdq]"
    r"|v?cvtt?s[sdh]2u?si|v?cvtu?si2s[sdh]|v?pmovmskb|v?movmskp[sd]|v?extractps|kmov[bwdq]|vpbroadcast[bwdq]"
    r"|rd(rand|seed|pid|fsbase|gsbase)|rdssp[dq]|in|lar|lsl|str|sldt|smsw"
)
"""Mnemonics of which it is known that they write their first operand and no other register."""

_X87 = (
    r"f(?:2xm1|abs|i?add|bld|chs|n?clex|cmov|i?com|cos|decstp|i?div|free|ild|incstp|n?init|i?mul|n?op|patan|prem"
    r"|ptan|ld|rndint|rstor|scale|n?setpm|sin|sqrt|i?sub|tst|ucom|wait|xam|xch|xrstor|xtract|yl2x)\w*|f?emms"
)
"""Mnemonics of the floating-point unit that write neither memory nor a general register."""

_READS = re.compile(
    rf"{_X87}|cmp|test|bt|nop[wlq]?|prefetch\w*|clflush(opt)?|clwb|cldemote|v?ldmxcsr|xrstors?(64)?"
    r"|l[gil]dt|ltr|lmsw|invlpg|ver[rw]|ptwrite|out|wr[fg]sbase|incssp[dq]|monitorx?|umonitor|u?mwaitx?"
    r"|tpause|movdir64b|enqcmds?|senduipi|inv(ept|vpid|pcid)|vmwrite|vmptrld|xlatb?"
)
"""Mnemonics that write neither a register that they name, nor memory that their first operand names."""

_QUIET = re.compile(
    rf"{_X87}|nop|endbr(32|64)|vzero(upper|all)|[lms]fence|pause|cl[cdi]|st[cdi]|cmc|clac|stac|sahf"
    r"|serialize|swapgs|wbinvd|wbnoinvd|invd|xend|xtest|xsetbv|wrpkru|wrmsr|wait|clts|setssbsy|saveprevssp"
    r"|tilerelease|clui|stui|testui|monitorx?|mwaitx?"
)
"""Mnemonics without an operand that write no general register."""

_IMPLICIT = (
    (re.compile(r"cpuid"), (RAX, RBX, RCX, RDX)),
    (re.compile(r"rdtsc|rdpmc|rdmsr|xgetbv|rdpkru|rdpru|cmpxchg(8|16)b"), (RAX, RDX)),
    (re.compile(r"rdtscp"), (RAX, RCX, RDX)),
    (re.compile(r"cwtl|cltq|cbtw|cwde|cdqe|cbw|lahf|xlatb?|xbegin|cmpxchg"), (RAX,)),
    (re.compile(r"cltd|cqto|cwtd|cdq|cqo|cwd"), (RDX,)),
    (re.compile(r"syscall"), (RAX, RCX, R11)),
    (re.compile(r"sysenter"), (RSP,)),
    (re.compile(r"v?pcmp[ei]stri[ql]?"), (RCX,)),
)
"""Registers that an instruction writes without naming them, or beside its first operand."""

_ALSO_SECOND = frozenset(("xchg", "xadd", "mulx"))
_UNCHANGING = frozenset(("or", "add", "sub", "xor"))
"""With 0 they leave memory as it is: `lock or $0,(%rsp)` is a barrier."""
_STRING = re.compile(r"(movs|stos|lods|scas|cmps|ins|outs)([bwlqd]?)")
_STRING_WRITES = {"movs": (RSI, RDI), "cmps": (RSI, RDI), "stos": (RDI,), "scas": (RDI,), "ins": (RDI,)}
_STRING_WRITES |= {"lods": (RSI, RAX), "outs": (RSI,)}
_STRING_STORES = frozenset(("movs", "stos", "ins"))

_STORED = (
    (re.compile(r"set[a-z]+|v?pextrb|kmovb"), 1),
    (re.compile(r"v?pextrw|kmovw|fn?st[cs]w|fistt?ps?|fists|fisttps|sldt|str|smsw"), 2),
    (re.compile(r"v?movss|v?movd|v?pextrd|v?extractps|kmovd|v?stmxcsr|fstp?s|fisttp?l|fistp?l"), 4),
    (re.compile(r"v?mov(sd|q|[lh]p[sd]|ntq)|v?pextrq|kmovq|fstp?l|fistt?pll|cmpxchg8b"), 8),
    (re.compile(r"fstpt|fbstp|s[gi]dt"), 10),
    (re.compile(r"vextract[fi](128|32x4|64x2)|cmpxchg16b"), 16),
    (re.compile(r"fn?stenv"), 28),
    (re.compile(r"vextract[fi](32x8|64x4)"), 32),
    (re.compile(r"fn?save"), 108),
    (re.compile(r"fxsave(64)?"), 512),
)
"""Bytes that AT&T syntax's mnemonics store where no suffix and no register tells."""


def _stored_bytes(mnemonic: str, suffix: int, operands: list[_Operand]) -> int:
    if operands[0].size or suffix:
        return operands[0].size or suffix
    for pattern, size in _STORED:
        if pattern.fullmatch(mnemonic):
            return size
    return (operands[1].size if len(operands) > 1 else 0) or HUGE


def _plain_segment(operand: _Operand) -> bool:
    """Whether the operand's segment starts at address 0, as all do in 64-bit mode but these two."""
    return operand.segment not in ("fs", "gs")


def _written(operand: _Operand, size: int) -> list[Effect]:
    """The operand gets something that is not tracked."""
    if operand.number is not None:
        return [Clobber(operand.number)]
    if operand.memory and operand.base is not None and not operand.indexed and _plain_segment(operand):
        return [Store(operand.base, operand.offset, None, size)]
    return []


def _stack_word(suffix: int, operand: _Operand) -> int:
    """Bytes that a push or pop of `operand` moves."""
    if suffix == 2 or (operand.size == 2 and (operand.memory or operand.number is not None)):
        return 2
    return WORD


def _push(suffix: int, operand: _Operand) -> Effects:
    size = _stack_word(suffix, operand)
    source = operand.number if size == WORD else None
    return effects(Store(RSP, -size, source, size), Assign(RSP, RSP, -size))


def _pop(suffix: int, operand: _Operand) -> Effects:
    size = _stack_word(suffix, operand)
    if operand.number is None:  # memory is addressed by the stack pointer behind the word
        return effects(Assign(RSP, RSP, size), *_written(operand, size))
    read = Load(operand.number, RSP, 0) if size == WORD else Clobber(operand.number)
    return effects(read) if operand.number == RSP else effects(read, Assign(RSP, RSP, size))


_LEAVE = effects(Assign(RSP, RBP, 0), Load(RBP, RSP, 0), Assign(RSP, RSP, WORD))


def _enter(operands: list[_Operand]) -> Effects:
    """`enter size, 0`, which is push rbp; mov rbp, rsp; sub rsp, size. Nobody uses the nested kind."""
    size, level = [operand.value for operand in operands] if len(operands) == 2 else (None, None)
    if size is None or level != 0:
        return effects(Clobber(RSP), Clobber(RBP))
    saved = (Store(RSP, -WORD, RBP, WORD), Assign(RSP, RSP, -WORD))
    return effects(*saved, Assign(RBP, RSP, 0), Assign(RSP, RSP, -size))


def _move(operands: list[_Operand]) -> Effects | None:
    """mov between 64-bit registers or with a word of memory; None for any other."""
    target, source = operands
    if target.number is not None and target.size == WORD:
        if source.number is not None and source.size == WORD:
            return assign(target.number, source.number, 0)
        if source.memory and source.base is not None and not source.indexed and not source.segment:
            return load(target.number, source.base, source.offset)
    elif target.memory and source.number is not None and source.size == WORD:
        if target.base is not None and not target.indexed and _plain_segment(target):
            return store(target.base, target.offset, source.number, WORD)
        return NO_EFFECTS
    return None


def _precise(mnemonic: str, suffix: int, operands: list[_Operand]) -> Effects | None:
    """The effects of what moves the stack pointer, words and addresses; None for anything else."""
    if mnemonic in ("push", "pushf"):
        return _push(suffix, operands[0] if operands else _Operand(""))
    if mnemonic in ("pop", "popf"):
        return _pop(suffix, operands[0] if operands else _Operand(""))
    if mnemonic == "leave":
        return _LEAVE if suffix != 2 else effects(Clobber(RSP), Clobber(RBP))
    if mnemonic == "enter":
        return _enter(operands)
    if len(operands) != 2:
        return None
    target, source = operands
    if mnemonic == "mov":
        return _move(operands)
    if target.number is None or target.size != WORD:
        return None
    if mnemonic == "xchg" and source.number not in (None, RSP, target.number) and target.number != RSP:
        return effects(Exchange(*sorted((target.number, source.number))))
    if mnemonic in ("add", "sub") and source.value is not None:
        return assign(target.number, target.number, source.value if mnemonic == "add" else -source.value)
    if mnemonic == "lea" and source.base is not None and not source.indexed:
        return assign(target.number, source.base, source.offset)
    return None


def _string(mnemonic: str, repeated: bool, operands: list[_Operand]) -> Effects | None:
    """The effects of a string instruction; None where it is none (movsd is also a vector instruction)."""
    found = _STRING.fullmatch(mnemonic)
    if found is None or not any(o.memory and o.segment and o.base in (RSI, RDI, None) for o in operands):
        return None
    if any(o.size and o.number is None and not o.memory for o in operands):
        return None
    parts: list[Effect] = []
    if found[1] in _STRING_STORES:
        size = max([o.size for o in operands] + [_SUFFIXES[found[2]]])
        parts.append(Store(RDI, 0, None, size or WORD))
    parts += [Clobber(number) for number in _STRING_WRITES[found[1]]]
    return effects(*parts, *([Clobber(RCX)] if repeated else []))


def _operands(text: str) -> list[_Operand]:
    """The operands, the destination first."""
    if "%" in text or "$" in text:
        parts = [part.strip() for part in _ATT_OPERAND.findall(text) if part.strip()]
        return [_att_operand(part) for part in reversed(parts)]
    return [_intel_operand(part.strip()) for part in text.split(",")] if text else []


def _effects(repeated: bool, mnemonic: str, rest: str) -> Effects:
    """What an instruction that does not direct control does, whatever registers are tracked."""
    operands = _operands(rest)
    suffix = 0
    if found := _SUFFIXED.fullmatch(mnemonic):
        mnemonic, suffix = found[1], _SUFFIXES[found[2]]
    if mnemonic == "enter" and "$" in rest:
        operands.reverse()  # the one instruction that AT&T syntax does not turn round
    known = _precise(mnemonic, suffix, operands)
    if known is None:
        known = _string(mnemonic, repeated, operands)
    return _general(mnemonic, suffix, operands) if known is None else known


def _general(mnemonic: str, suffix: int, operands: list[_Operand]) -> Effects:
    """An instruction that only counts by what it overwrites."""
    numbers = next((numbers for pattern, numbers in _IMPLICIT if pattern.fullmatch(mnemonic)), ())
    implicit = [Clobber(number) for number in numbers]
    if not operands:
        if implicit or not mnemonic or _QUIET.fullmatch(mnemonic):
            return effects(*implicit)
        return effects(*(Clobber(number) for number in range(16) if number != RSP))
    if mnemonic in ("mul", "div", "idiv", "imul") and len(operands) == 1:
        narrow = (operands[0].size or suffix) == 1
        return effects(Clobber(RAX), *([] if narrow else [Clobber(RDX)]))
    if mnemonic == "xchg" and operands[0].text == operands[-1].text and operands[0].size != 4:
        return NO_EFFECTS  # a nop; the 32-bit one clears the upper half
    if _READS.fullmatch(mnemonic):
        return effects(*implicit)
    if operands[0].memory and mnemonic in _UNCHANGING and operands[-1].value == 0:
        return NO_EFFECTS
    size = _stored_bytes(mnemonic, suffix, operands)
    parts = [*implicit, *_written(operands[0], size)]
    if mnemonic in _ALSO_SECOND:
        parts += [effect for operand in operands[1:2] for effect in _written(operand, size)]
    elif not implicit and not _TO_FIRST.fullmatch(mnemonic) and not _TO_FIRST.fullmatch(mnemonic[:-1]):
        parts += [Clobber(operand.number) for operand in operands[1:] if operand.number is not None]
        if mnemonic.startswith(("push", "pop")):
            parts.append(Clobber(RSP))
    return effects(*parts)


class _Read(NamedTuple):
    """What a line says: `operands` only matter where control is directed, `effects` only where it is not."""

    control: Control
    operands: str
    effects: Effects


@lru_cache(maxsize=1 << 15)
def _read(text: str) -> _Read:
    repeated, mnemonic, operands = _words(text)
    control = _control(mnemonic)
    if control is Control.NEXT:
        return _Read(control, operands, _effects(repeated, mnemonic, operands))
    return _Read(control, operands, clobber(RCX) if mnemonic.startswith("loop") else NO_EFFECTS)


def _narrowed(found: Effects, tracked: Collection[int]) -> Effects:
    """What of `found` touches a tracked register, or memory through one."""
    kept: list[Effect] = []
    for part in found:
        if isinstance(part, Exchange):
            there = [number for number in part if number in tracked]
            kept += [part] if len(there) == 2 else map(Clobber, there)
        elif (part.base if isinstance(part, Store) else part.target) in tracked:
            kept.append(part)
    return found if kept == list(found) else effects(*kept)


def decode_text(
    lines: Iterable[Line], tracked: Collection[int], base: int = 0, size: int = _CODE_END
) -> Decoded:
    """Decode an unbroken run of instructions, up to one that does not fall through and behind which no jump
    seen so far goes, or to their end.

    `base` is the address that the lines' text gives to offset 0 (it names jumps' targets by address), and
    `size` the code's bytes; `tracked`: the registers (DWARF numbers) whose every write matters.
    """
    steps: list[Step] = []
    starts: list[int] = []
    furthest = -1
    for offset, length, text in lines:
        after = offset + length
        starts.append(offset)
        control, operands, found = _read(text)
        if found:
            found = _narrowed(found, tracked)
        if control is Control.NEXT:
            if found:
                steps.append(Step(offset, after, found))
            continue
        target = _target(operands, base) if control in _DIRECTED else None
        if control is Control.CALL and target == after:  # "call next; pop": nobody returns to it
            steps.append(Step(offset, after, _PUSH_NEXT))
            continue
        steps.append(Step(offset, after, found, control, target))
        if target is not None and furthest < target < size and control is not Control.CALL:
            furthest = target
        if after > furthest and control in _ENDS:
            break
    return Decoded(steps, starts)


def _run(disassemble: Disassemble, start: int, end: int) -> Iterator[Line]:
    """The instructions from `start` to `end`, asked for piece by piece, as far as they follow one another."""
    while start < end:
        before = start
        for offset, length, text in disassemble(start, min(start + _CHUNK, end)):
            if offset != start or length <= 0:
                return
            if offset + length > end:
                yield offset, end - offset, "(bad)"
                return
            yield offset, length, text
            start += length
        if start == before:
            return


def text_decoder(disassemble: Disassemble, base: int) -> Callable[[bytes, int, Collection[int]], Decoded]:
    """A `recover.flow.Decoder` for the code at address `base`, as `disassemble` reads it there.

    What `disassemble` raises passes through.
    """

    def decode(code: bytes, offset: int, tracked: Collection[int]) -> Decoded:
        return decode_text(_run(disassemble, offset, len(code)), tracked, base, len(code))

    return decode
