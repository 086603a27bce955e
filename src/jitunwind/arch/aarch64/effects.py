"""AArch64 machine code to the effects that unwinding cares about, decoded by the encodings themselves.

Every instruction is one word, and few fields of it matter here: what it writes, where it leads. So this module reads
them as the Arm ARM (DDI 0487), section C4.1, lays them out, and needs no package. Each word is looked at once: from
then on a look-up says what it does.

Not tracked: stores whose address is the sum of two registers, and those of SVE and SME, whose sizes and offsets are
the processor's: compilers put arrays and vectors at such addresses, and saved registers at constant ones.
"""

from collections.abc import Callable, Collection
from functools import cache, partial
from struct import Struct

from jitunwind.arch.aarch64.registers import D8, SP, X0, X16, X17, X30
from jitunwind.arch.aarch64.words import SIZE, signed
from jitunwind.arch.effects import (
    NO_EFFECTS,
    Add,
    Assign,
    Clobber,
    Control,
    Decoded,
    Effect,
    Effects,
    Load,
    Set,
    Sign,
    Step,
    Store,
    assign,
    clobber,
    effects,
    load,
    store,
)
from jitunwind.rows import WORD

_Tracked = Collection[int]
_Meaning = tuple[Effects, Control, int | None]
"""What a word does, where control goes, and how far away the target is."""
_Class = Callable[[int, _Tracked], _Meaning | None]
"""One class of encodings: a word of it -> what it means; None: nothing that matters."""

_V0 = D8 - 8
_ZERO = 31
"""The register number that is the zero register or the stack pointer, as the instruction has it. The stack pointer's
own DWARF number is the same."""
_SCRATCH = (12, 13, X16, X17)
"""Where GCC and the linker put the sizes of frames that are too large for an immediate."""
_ALL_ARGUMENTS = range(X0, X17 + 1)
"""What a call of the hypervisor or of the secure monitor may change (SMCCC, DEN0028, section 2.6)."""

_NEXT, _BRANCH, _JUMP, _CALL = Control.NEXT, Control.BRANCH, Control.JUMP, Control.CALL
_HALT: _Meaning = (NO_EFFECTS, Control.HALT, None)


def _doing(found: Effects) -> _Meaning | None:
    return (found, _NEXT, None) if found else None


def _writing(tracked: _Tracked, *targets: int) -> _Meaning | None:
    """These registers change. `_ZERO` is the zero register here."""
    found = [number for number in targets if number in tracked and number != _ZERO]
    if len(found) == 1:
        return clobber(found[0]), _NEXT, None
    return _doing(effects(*map(Clobber, found))) if found else None


def _writing_or_sp(target: int, tracked: _Tracked) -> _Meaning | None:
    """The same for an instruction in which 31 is the stack pointer."""
    return (clobber(target), _NEXT, None) if target in tracked else None


def _vector(word: int, tracked: _Tracked) -> _Meaning | None:
    """Writes the vector register of bits 4 to 0."""
    return _writing(tracked, _V0 + (word & 31))


def _none(word: int, tracked: _Tracked) -> _Meaning | None:
    """Unallocated."""
    return _HALT


# Data processing, immediate (C4.1.93)


def _rd(word: int, tracked: _Tracked) -> _Meaning | None:
    """Writes the register of bits 4 to 0, of which 31 is the zero register."""
    return _writing(tracked, word & 31)


def _add_immediate(word: int, tracked: _Tracked) -> _Meaning | None:
    target, source = word & 31, word >> 5 & 31
    if target not in tracked or (target == _ZERO and word >> 29 & 1):  # cmp, cmn
        return None
    if not word >> 31:
        return clobber(target), _NEXT, None
    addend = (word >> 10 & 0xFFF) << (12 if word >> 22 & 1 else 0)
    return assign(target, source, -addend if word >> 30 & 1 else addend), _NEXT, None


def _tags_or_minimum(word: int, tracked: _Tracked) -> _Meaning | None:
    if word >> 22 & 1:  # smax, umax, smin, umin
        return _rd(word, tracked)
    return _writing_or_sp(word & 31, tracked) if word >> 29 == 0b100 or word >> 29 == 0b110 else _HALT


def _logical_immediate(word: int, tracked: _Tracked) -> _Meaning | None:
    if word >> 22 & 1 and not word >> 31:
        return _HALT
    return _rd(word, tracked) if word >> 29 & 3 == 3 else _writing_or_sp(word & 31, tracked)


def _move_wide(word: int, tracked: _Tracked) -> _Meaning | None:
    target = word & 31
    if word >> 29 & 3 == 2 and target in _SCRATCH and target in tracked:  # movz
        return effects(Set(target, (word >> 5 & 0xFFFF) << 16 * (word >> 21 & 3))), _NEXT, None
    return _HALT if word >> 29 & 3 == 1 else _rd(word, tracked)


def _extract(word: int, tracked: _Tracked) -> _Meaning | None:
    if word & 0xFFC0001F == 0xF380001F:  # autiasppc, autibsppc
        return _doing(_signed_by("", tracked))
    return _rd(word, tracked) if word >> 29 & 3 == 0 else _HALT


def _immediate(word: int, tracked: _Tracked) -> _Meaning | None:
    return _IMMEDIATE[word >> 23 & 7](word, tracked)


_IMMEDIATE: tuple[_Class, ...] = (
    *(_rd, _rd),  # adr, adrp
    _add_immediate,
    _tags_or_minimum,
    _logical_immediate,
    _move_wide,
    _rd,  # bitfields
    _extract,
)

# Branches, exceptions, system (C4.1.94)


def _jump(word: int, tracked: _Tracked) -> _Meaning | None:
    """b, bl"""
    return NO_EFFECTS, _CALL if word >> 31 else _JUMP, signed(word & 0x3FFFFFF, 26) * SIZE


def _compare_and_branch(word: int, tracked: _Tracked) -> _Meaning | None:
    """cbz, cbnz, b.cond, bc.cond: 19 bits of distance."""
    return NO_EFFECTS, _BRANCH, signed(word >> 5 & 0x7FFFF, 19) * SIZE


def _test_and_branch(word: int, tracked: _Tracked) -> _Meaning | None:
    return NO_EFFECTS, _BRANCH, signed(word >> 5 & 0x3FFF, 14) * SIZE


def _return_by_distance(word: int, tracked: _Tracked) -> _Meaning | None:
    """retaasppc, retabsppc"""
    return (_signed_by("", tracked), Control.RETURN, None) if word & 0xC0001F == 0x1F else _HALT


def _branch_register(word: int, tracked: _Tracked) -> _Meaning | None:
    if word >> 16 & 31 != _ZERO:
        return _HALT
    authenticated = word >> 11 & 31 == 1
    if not authenticated and word >> 10 & 63:
        return _HALT
    operation = word >> 21 & 15
    if operation in (0, 8):
        return NO_EFFECTS, _JUMP, None
    if operation in (1, 9):
        return NO_EFFECTS, _CALL, None
    if operation == 2:
        return _signed_by("", tracked) if authenticated else NO_EFFECTS, Control.RETURN, None
    return _HALT  # eret, drps: nothing that a user's code can do


def _exception(word: int, tracked: _Tracked) -> _Meaning | None:
    kind = word >> 21 & 7, word & 31
    if kind == (0, 1):  # svc
        return _writing(tracked, X0)
    if kind in ((0, 2), (0, 3)):  # hvc, smc
        return _writing(tracked, *_ALL_ARGUMENTS)
    return None if kind == (3, 0) else _HALT  # tcancel


def _system(word: int, tracked: _Tracked) -> _Meaning | None:
    if word & 0xFFFFF01F == 0xD503201F:
        return _hint(word >> 5 & 0x7F, tracked)
    if not word >> 21 & 1:
        return None  # msr, sys, barriers
    if word >> 22 & 1:  # mrrs
        return _writing(tracked, word & 31, word + 1 & 31)
    return _rd(word, tracked)  # mrs, sysl


def _hint(number: int, tracked: _Tracked) -> _Meaning | None:
    """The hint space, which processors that do not know an instruction pass over (C4.1.94.5)."""
    if number in (7, 28, 29, 30, 31):  # xpaclri, autiaz, autiasp, autibz, autibsp
        return _doing(_signed_by("", tracked))
    if 24 <= number <= 27:  # paciaz, paciasp, pacibz, pacibsp
        return _doing(_signed_by("AB"[number >> 1 & 1], tracked))
    if number in (8, 10, 12, 14):  # pacia1716 and its like
        return _writing(tracked, X17)
    return _writing(tracked, X16) if number == 40 else None  # chkfeat


def _signed_by(key: str, tracked: _Tracked) -> Effects:
    """The return address is signed where it is, in x30; "": is as the caller gave it again."""
    return _SIGNED[key] if X30 in tracked else NO_EFFECTS


_SIGNED = {key: effects(Sign(X30, key)) for key in ("", "A", "B")}


# Loads and stores (C4.1.95)


def _stored(base: int, offset: int, number: int, size: int, is_vector: bool) -> list[Effect]:
    """One register goes to memory. A vector register's lower half is what its DWARF number stands for."""
    if is_vector and size >= WORD:
        parts: list[Effect] = [Store(base, offset, _V0 + number, WORD)]
        return [*parts, Store(base, offset + WORD, None, size - WORD)] if size > WORD else parts
    source = None if is_vector or size != WORD or number == _ZERO else number
    return [Store(base, offset, source, size)]


def _loaded(
    base: int, offset: int, number: int, size: int, is_vector: bool, tracked: _Tracked
) -> list[Effect]:
    if not is_vector and number == _ZERO:
        return []
    target = _V0 + number if is_vector else number
    if target not in tracked:
        return []
    whole = size >= WORD and base in tracked
    return [Load(target, base, offset) if whole else Clobber(target)]


def _moves(
    base: int,
    offset: int,
    numbers: tuple[int, ...],
    size: int,
    is_vector: bool,
    is_load: bool,
    moved: int | None,
    tracked: _Tracked,
) -> _Meaning | None:
    """Registers of `size` bytes each to or from base + offset, one behind the other; `moved`: what is added to the
    base afterwards."""
    found: list[Effect] = []
    places = [(number, offset + index * size) for index, number in enumerate(numbers)]
    if is_load:
        if not is_vector and numbers[0] == base:
            places.reverse()  # its base is the last that a load changes
        for number, at in places:
            found += _loaded(base, at, number, size, is_vector, tracked)
    elif base in tracked:
        for number, at in places:
            found += _stored(base, at, number, size, is_vector)
    if moved is not None and base in tracked:
        unpredictable = is_load and not is_vector and base in numbers and base != SP
        found.append(Clobber(base) if unpredictable else Assign(base, base, moved))
    if len(found) == 1:
        one = found[0]
        if isinstance(one, Load):
            return load(*one), _NEXT, None
        if isinstance(one, Store):
            return store(*one), _NEXT, None
    return _doing(effects(*found)) if found else None


def _pair(word: int, tracked: _Tracked) -> _Meaning | None:
    """ldp, stp and their like."""
    operation, is_vector, is_load = word >> 30, bool(word >> 26 & 1), bool(word >> 22 & 1)
    mode = word >> 23 & 3
    if operation == 3:
        return _HALT
    scale = size = 4 << operation if is_vector else 4 << (operation >> 1)
    if not is_vector and operation == 1:
        if not mode:
            return _HALT
        scale = size = 4  # ldpsw
        if not is_load:  # stgp: two words, in steps of the tags' granule
            scale, size = 16, 8
    distance = signed(word >> 15 & 0x7F, 7) * scale
    base, numbers = word >> 5 & 31, (word & 31, word >> 10 & 31)
    offset = 0 if mode == 1 else distance
    moved = distance if mode & 1 else None
    return _moves(base, offset, numbers, size, is_vector, is_load, moved, tracked)


def _one(word: int, tracked: _Tracked, offset: int | None, moved: int | None) -> _Meaning | None:
    """ldr, str and their like, by the fields that all forms share; `offset` None: by a register."""
    size, is_vector, operation = 1 << (word >> 30), bool(word >> 26 & 1), word >> 22 & 3
    is_load = bool(operation & 1)
    if is_vector:
        if operation & 2:
            if size != 1:
                return _HALT
            size = 16
    elif operation & 2:
        is_load = True
        if size == 8:
            return _HALT if operation & 1 or moved is not None else None  # prfm
        if size == 4 and operation & 1:
            return _HALT
        size = min(size, 4)  # extended: not the whole register's bytes
    base, number = word >> 5 & 31, word & 31
    if offset is None:
        return _writing(tracked, _V0 + number if is_vector else number) if is_load else None
    return _moves(base, offset, (number,), size, is_vector, is_load, moved, tracked)


def _scaled(word: int, tracked: _Tracked) -> _Meaning | None:
    """An unsigned offset, in units of the access."""
    shift = 4 if word >> 26 & 1 and word >> 23 & 1 else word >> 30
    return _one(word, tracked, (word >> 10 & 0xFFF) << shift, None)


def _unscaled(word: int, tracked: _Tracked) -> _Meaning | None:
    """Nine bits of offset, before or after which the base may move; atomics; offsets by register; ldraa."""
    kind = word >> 10 & 3
    if word >> 21 & 1:
        if kind == 2:
            return _one(word, tracked, None, None) if word >> 14 & 1 else _HALT
        return _atomic(word, tracked) if not kind else _authenticating_load(word, tracked)
    distance = signed(word >> 12 & 0x1FF, 9)
    if kind == 2 and word >> 26 & 1:
        return _HALT
    moved = distance if kind & 1 else None
    return _one(word, tracked, 0 if kind == 1 else distance, moved)


def _atomic(word: int, tracked: _Tracked) -> _Meaning | None:
    """Read and write in one: ldadd, swp and their like; ldapr, which only reads; 64 bytes at once."""
    size, base, number, second = 1 << (word >> 30), word >> 5 & 31, word & 31, word >> 16 & 31
    operation = word >> 12 & 15
    if word >> 26 & 1:
        found = [] if number == _ZERO else [Clobber(_V0 + number)]
        return _all_of(tracked, *found, Store(base, 0, None, size))
    if operation == 0b1100:  # ldapr
        return _rd(word, tracked)
    if size == 8 and not word >> 22 & 3:
        if operation == 0b1101:  # ld64b
            return _writing(tracked, *range(number, number + 8))
        if operation in (0b1001, 0b1010, 0b1011):  # st64b, which has no status to write, st64bv0, st64bv
            status = [Clobber(second)] if operation != 0b1001 else []
            return _all_of(tracked, *status, Store(base, 0, None, 64))
    return _all_of(tracked, Clobber(number), Store(base, 0, None, size))


def _all_of(tracked: _Tracked, *parts: Clobber | Store | Assign) -> _Meaning | None:
    """Those of these that matter."""
    found: list[Effect] = []
    for part in parts:
        if isinstance(part, Clobber):
            if part.target in tracked and part.target != _ZERO:
                found.append(part)
        elif (part.target if isinstance(part, Assign) else part.base) in tracked:
            found.append(part)
    return _doing(effects(*found)) if found else None


def _authenticating_load(word: int, tracked: _Tracked) -> _Meaning | None:
    """ldraa, ldrab"""
    if word >> 30 != 3 or word >> 26 & 1:
        return _HALT
    distance = signed((word >> 22 & 1) << 9 | word >> 12 & 0x1FF, 10) * WORD
    base = word >> 5 & 31
    moved = [Assign(base, base, distance)] if word >> 11 & 1 else []
    return _all_of(tracked, Clobber(word & 31), *moved)


def _literal(word: int, tracked: _Tracked) -> _Meaning | None:
    if word >> 30 == 3:
        return _HALT if word >> 26 & 1 else None  # prfm
    return _vector(word, tracked) if word >> 26 & 1 else _rd(word, tracked)


def _exclusive(word: int, tracked: _Tracked) -> _Meaning | None:
    """ldxr, stxr, ldar, stlr, cas and their like."""
    size, base, number = 1 << (word >> 30), word >> 5 & 31, word & 31
    status, second = word >> 16 & 31, word >> 10 & 31
    is_load, ordered, paired = bool(word >> 22 & 1), bool(word >> 23 & 1), bool(word >> 21 & 1)
    if ordered and paired:  # cas
        return _all_of(tracked, Clobber(status), Store(base, 0, None, size))
    if ordered:
        source = number if size == WORD and number != _ZERO else None
        return _rd(word, tracked) if is_load else _all_of(tracked, Store(base, 0, source, size))
    if paired and not word >> 31:  # casp
        pair = Clobber(status), Clobber(status + 1)
        return _all_of(tracked, *pair, Store(base, 0, None, 8 << (word >> 30)))
    if is_load:
        return _writing(tracked, number, *([second] if paired else []))
    return _all_of(tracked, Clobber(status), Store(base, 0, None, size * (1 + paired)))


def _ordered(word: int, tracked: _Tracked) -> _Meaning | None:
    """stlur, ldapur; pairs of 128-bit atomics; tags; memory copies and sets."""
    base, number, second = word >> 5 & 31, word & 31, word >> 16 & 31
    distance = signed(word >> 12 & 0x1FF, 9)
    kind = word >> 10 & 3
    if word >> 21 & 1:
        if word >> 30 == 3 and not word >> 26 & 1:
            return _tags(word, tracked)
        if word >> 30 == 0 and not word >> 26 & 1 and kind == 0:  # swpp, ldclrp, ldsetp
            return _all_of(tracked, Clobber(number), Clobber(second), Store(base, 0, None, 16))
        return _HALT
    if kind == 1 and word >> 30 == 0:  # cpy, set: addresses and count move
        return _writing(tracked, number, base, *([second] if word >> 22 & 3 != 3 else []))
    if kind == 2 and word >> 31 and not word >> 26 & 1:  # ldiapp, stilp
        size = 4 << (word >> 30 & 1)
        is_load, moves = bool(word >> 22 & 1), not word >> 12 & 1
        moved = (2 * size if is_load else -2 * size) if moves else None
        at = moved if moved is not None and not is_load else 0
        return _moves(base, at, (number, second), size, False, is_load, moved, tracked)
    if kind == (2 if word >> 26 & 1 else 0):
        return _one(word, tracked, distance, None)
    return _HALT


def _tags(word: int, tracked: _Tracked) -> _Meaning | None:
    """stg, ldg and their like, which may set to zero what they tag."""
    operation, kind, base = word >> 22 & 3, word >> 10 & 3, word >> 5 & 31
    if not kind:
        return _rd(word, tracked) if operation & 1 else None  # ldg, ldgm; stgm, stzgm
    distance = signed(word >> 12 & 0x1FF, 9) * 16
    found: list[Store | Assign] = []
    if operation & 1:
        found.append(Store(base, 0 if kind == 1 else distance, None, 16 << (operation >> 1)))
    if kind & 1:
        found.append(Assign(base, base, distance))
    return _all_of(tracked, *found)


_STRUCTURES = {0: (4, 4), 2: (4, 1), 4: (3, 3), 6: (3, 1), 7: (1, 1), 8: (2, 2), 10: (2, 1)}
"""ld1 to ld4 and st1 to st4 of whole registers: how many, and how many elements make a structure."""


def _structures(word: int, tracked: _Tracked) -> _Meaning | None:
    """Vectors' structures: whole registers, or one element of each."""
    if word >> 31:
        return _HALT
    if word >> 24 & 1:
        count = ((word >> 13 & 1) << 1 | word >> 21 & 1) + 1
        size = 1 << (word >> 14 & 3)
        if size == 4 and word >> 10 & 1:
            size = 8
        elif size == 8:  # to all elements
            size = 1 << (word >> 10 & 3)
    elif word >> 12 & 15 in _STRUCTURES:
        count, _ = _STRUCTURES[word >> 12 & 15]
        size = 16 if word >> 30 & 1 else 8
    else:
        return _HALT
    base, number, index = word >> 5 & 31, word & 31, word >> 16 & 31
    parts: list[Clobber | Store | Assign] = []
    if word >> 22 & 1:
        parts += [Clobber(_V0 + (number + each) % 32) for each in range(count)]
    else:
        parts.append(Store(base, 0, None, count * size))
    found = _all_of(tracked, *parts)
    if not word >> 23 & 1 or base not in tracked:
        return found
    moved = Assign(base, base, count * size) if index == _ZERO else Clobber(base)
    return effects(*(found[0] if found else ()), moved), _NEXT, None


# Data processing, register (C4.1.96)


def _logical(word: int, tracked: _Tracked) -> _Meaning | None:
    target = word & 31
    if target == _ZERO or target not in tracked:
        return None
    if word & 0xFFE0FFE0 == 0xAA0003E0 and word >> 16 & 31 != _ZERO:  # mov
        return assign(target, word >> 16 & 31, 0), _NEXT, None
    return clobber(target), _NEXT, None


def _add(word: int, tracked: _Tracked) -> _Meaning | None:
    if word >> 21 & 1 and not word >> 29 & 1:  # extended register: 31 is the stack pointer
        if word & 0xBFE0FC1F == 0x8B20601F:  # add, sub sp, ..., x
            return effects(Add(SP, word >> 5 & 31, word >> 16 & 31, -1 if word >> 30 & 1 else 1)), _NEXT, None
        return _writing_or_sp(word & 31, tracked)
    return _rd(word, tracked)


def _two_sources(word: int, tracked: _Tracked) -> _Meaning | None:
    """adc, ccmp, csel, udiv, rbit and their like."""
    kind = word >> 21 & 7
    if word >> 23 & 1 and kind == 6:
        return _one_or_two(word, tracked)
    if kind == 0:
        if word >> 13 & 7 == 1:  # addpt, subpt
            return _writing_or_sp(word & 31, tracked)
        return _rd(word, tracked) if not word >> 10 & 63 else None  # rmif, setf8, setf16: flags
    if kind == 2:  # ccmn, ccmp
        return None
    return _rd(word, tracked) if kind == 4 else _HALT


def _one_or_two(word: int, tracked: _Tracked) -> _Meaning | None:
    if word >> 30 & 1:
        if word & 0xFFFF0000 == 0xDAC10000:
            return _authentication(word, tracked)
        return _rd(word, tracked)
    if word & 0xFFE0FC00 == 0x9AC01000:  # irg
        return _writing_or_sp(word & 31, tracked)
    return _rd(word, tracked)


def _authentication(word: int, tracked: _Tracked) -> _Meaning | None:
    """pacia, autia, xpaci and their like."""
    operation, target = word >> 10 & 63, word & 31
    if operation in (0b101000, 0b101001, 0b100000, 0b100001) and word & 0x3FF == 0x3FE:  # paciasppc
        return _doing(_signed_by("AB"[operation & 1], tracked))
    if operation in (0b100100, 0b100101) and target == X30:  # autiasppcr
        return _doing(_signed_by("", tracked))
    if target == X30:
        if operation in (0, 1, 8, 9):  # pacia, pacib, paciza, pacizb
            return _doing(_signed_by("AB"[operation & 1], tracked))
        if operation in (4, 5, 12, 13, 16):  # autia, autib, autiza, autizb, xpaci
            return _doing(_signed_by("", tracked))
    return _rd(word, tracked)


# SIMD and floating point (C4.1.97)


def _floating_point(word: int, tracked: _Tracked) -> _Meaning | None:
    """Scalars: what goes to a general register, what to a vector register, and comparisons."""
    target, source = word & 31, word >> 5 & 31
    if word >> 24 & 1:  # three sources
        return _vector(word, tracked)
    operation = word >> 16 & 7
    if not word >> 21 & 1:  # fixed point
        return _rd(word, tracked) if operation in (0, 1) else _vector(word, tracked)
    kind = word >> 10 & 63
    if not kind:
        if word & 0xFFFFFC00 == 0x9E660000 and target in tracked and target != _ZERO:  # fmov x, d
            return assign(target, _V0 + source, 0), _NEXT, None
        if word & 0xFFFFFC00 == 0x9E670000 and _V0 + target in tracked and source != _ZERO:  # fmov d, x
            return assign(_V0 + target, source, 0), _NEXT, None
        return _vector(word, tracked) if operation in (2, 3, 7) else _rd(word, tracked)
    if kind & 0xF == 0b1000 or kind & 3 == 1:  # fcmp, fccmp
        return None
    if word & 0xFFFFFC00 == 0x1E604000 and _V0 + target in tracked:  # fmov d, d
        return assign(_V0 + target, _V0 + source, 0), _NEXT, None
    return _vector(word, tracked)


def _simd(word: int, tracked: _Tracked) -> _Meaning | None:
    if word & 0xBFE0EC00 == 0x0E002C00:  # smov, umov
        return _rd(word, tracked)
    return _vector(word, tracked)


# SVE and SME (C4.1.36 to C4.1.90): of these, what a general register or the stack pointer gets

_SVE_WRITES = (
    (0xFF30FC00, 0x0420E000),  # cntb to cntd
    (0xFF30F800, 0x0430E000),  # incb to decd
    (0xFF20F000, 0x0420F000),  # sqincb and its like
    (0xFFF0F000, 0x04B05000),  # rdvl, rdsvl
    (0xFF3FC000, 0x25208000),  # cntp
    (0xFF3EF000, 0x252C8000),  # incp, decp
    (0xFF3CF000, 0x25288000),  # sqincp and its like
    (0xFF3EE000, 0x0520A000),  # lasta, lastb
    (0xFF3EE000, 0x0530A000),  # clasta, clastb
    (0xFFFFFC00, 0xC04C0000),  # movt
)
_SVE_WRITES_OR_SP = ((0xFFA0F000, 0x04205000),)  # addvl, addpl, addsvl, addspl


def _scalable(word: int, tracked: _Tracked) -> _Meaning | None:
    """Anything else may change the vector register of bits 4 to 0; those of predicates are taken for such, too."""
    if any(word & mask == value for mask, value in _SVE_WRITES_OR_SP):
        return _writing_or_sp(word & 31, tracked)
    if any(word & mask == value for mask, value in _SVE_WRITES):
        return _rd(word, tracked)
    kind = word >> 25
    if kind in (
        0b1110010,
        0b1110000,
        0b1000000,
    ):  # stores; SME's loads and stores, and what changes only its array
        return None
    count = 1
    if kind == 0b1010010:  # contiguous loads: of structures, as many as elements
        count = (word >> 21 & 3) + 1 if word >> 14 & 3 == 3 else 1
    elif kind in (0b1010000, 0b1100000):
        count = 4
    return _writing(tracked, *(_V0 + (word + each) % 32 for each in range(count)))


def _classes() -> tuple[_Class, ...]:
    """By bits 31 to 24 of a word (C4.1)."""
    by_top: list[_Class] = [_none] * 256
    for top in range(256):
        group = top >> 1 & 15
        if group == 0b0010 or (group == 0 and top >> 7):
            by_top[top] = _scalable
        elif group >> 1 == 0b100:
            by_top[top] = _immediate
        elif group >> 1 == 0b101:
            by_top[top] = _branch_class(top)
        elif group & 0b0101 == 0b0100:
            by_top[top] = _memory_class(top)
        elif group & 0b0111 == 0b0101:
            by_top[top] = (_logical, _add, _two_sources, _rd)[(top >> 3 & 2) | (top & 1)]
        elif group & 0b0111 == 0b0111:
            by_top[top] = _floating_point if top & 0x5E == 0x1E else _simd
    return tuple(by_top)


def _branch_class(top: int) -> _Class:
    if top >> 2 & 31 == 0b00101:
        return _jump
    if top >> 1 & 63 == 0b011010:
        return _compare_and_branch
    if top >> 1 & 63 == 0b011011:
        return _test_and_branch
    rest: dict[int, _Class] = {
        0x54: _compare_and_branch,
        0x55: _return_by_distance,
        0xD4: _exception,
        0xD5: _system,
        0xD6: _branch_register,
        0xD7: _branch_register,
    }
    return rest.get(top, _none)


def _memory_class(top: int) -> _Class:
    is_vector, ordered = bool(top >> 2 & 1), bool(top & 1)
    kind = top >> 4 & 3
    if kind == 0:
        if is_vector:
            return _structures
        return _none if ordered else _exclusive
    if kind == 1:
        return _ordered if ordered else _literal
    if kind == 2:
        return _pair
    return _scaled if ordered else _unscaled


_CLASSES = _classes()
_words_of = Struct("<I").iter_unpack
_new_step = partial(tuple.__new__, Step)
_MOST_KNOWN = 1 << 18


def meaning(word: int, tracked: Collection[int]) -> tuple[Effects, Control, int | None] | None:
    """What the instruction `word` does, where control goes, and the distance to its target in bytes; None: nothing
    that matters to who follows these registers."""
    return _CLASSES[word >> 24](word, tracked)


@cache
def _known_of(tracked: frozenset[int]) -> dict[int, _Meaning | None]:
    """The words met so far, as seen by one who follows certain registers."""
    return {}


def decode(code: bytes, offset: int, tracked: Collection[int]) -> Decoded:
    """Decode `code` from `offset` on in one sweep, up to an instruction that does not fall through and behind
    which no jump seen so far goes (what follows a region's code is data), or to the code's end.

    `tracked`: the registers (DWARF numbers) whose every write matters; writes to others give no step.
    """
    tracked = frozenset(tracked)
    known = _known_of(tracked)
    if len(known) > _MOST_KNOWN:
        known.clear()
    steps: list[Step] = []
    size = len(code)
    whole = 0 if offset % SIZE else (size - offset) // SIZE * SIZE
    position = furthest = offset
    for (word,) in _words_of(memoryview(code)[offset : offset + whole]):
        position += SIZE
        try:
            meant = known[word]
        except KeyError:
            meant = known[word] = _CLASSES[word >> 24](word, tracked)
        if meant is None:
            continue
        found, control, distance = meant
        if control is _NEXT:
            steps.append(_new_step((position - SIZE, position, found, _NEXT, None)))
            continue
        target = None
        if distance is not None:
            target = position - SIZE + distance
            if control is not _CALL and furthest < target < size:
                furthest = target
        steps.append(_new_step((position - SIZE, position, found, control, target)))
        if position > furthest and control is not _CALL and control is not _BRANCH:
            return Decoded(steps, list(range(offset, position, SIZE)))
    starts = list(range(offset, position, SIZE))
    if position < size:  # the last instruction is cut off, or none can begin here
        starts.append(position)
        steps.append(_new_step((position, min(position + SIZE, size), *_HALT)))
    return Decoded(steps, starts)
