"""AArch64 code as compilers write it: PLT entries, padding, switches, uses of x29. `check` asks."""

from collections.abc import Iterable, Iterator

from jitunwind.arch.aarch64.effects import meaning
from jitunwind.arch.aarch64.registers import SP, X29
from jitunwind.arch.aarch64.switches import Switches
from jitunwind.arch.aarch64.words import SIZE, loaded_at, page_of, words_of
from jitunwind.arch.compiled import READS, SAVES, WRITES, Compiled, Surroundings
from jitunwind.arch.effects import Control, Exchange, Store

_NOP, _ZEROS = 0xD503201F, 0
_BTI_C = 0xD503245F
_ADRP_X16, _ADRP_MASK = 0x90000010, 0x9F00001F
_EVERY = frozenset(range(SP + 1))
_BEFORE_CALL = 6
"""Instructions looked at before an indirect call."""


class _Code:
    nop = _NOP.to_bytes(SIZE, "little")

    def starts(self, code: bytes) -> list[int]:
        return list(range(0, len(code), SIZE))

    def padding(self, code: bytes) -> tuple[int, int]:
        words = words_of(code)
        padding = sum(word in (_NOP, _ZEROS) for word in words)
        return padding, len(words) - padding

    def size(self, code: bytes, offset: int) -> int:
        return min(SIZE, len(code) - offset)

    def is_call(self, code: bytes, offset: int) -> bool:
        words = words_of(code[offset : offset + SIZE])
        meant = meaning(words[0], ()) if words else None
        return meant is not None and meant[1] is Control.CALL

    def stubs(self, code: bytes) -> Iterable[int]:
        """From the first on, which `adrp x16` begins, behind a `bti c` where indirect calls need one: the PLT's own
        head saves x16 and x30 before that (AAELF64, section 10)."""
        words = words_of(code)
        for index, word in enumerate(words):
            if word & _ADRP_MASK == _ADRP_X16 and index:
                guarded = words[index - 1] == _BTI_C
                if (
                    guarded or words[index - 1] & 0xFFC003FF != 0xA9800000 | SP << 5 | 16
                ):  # stp x16, ..., [sp, ...]!
                    yield (index - guarded) * SIZE

    def slot_of_stub(self, code: bytes, address: int) -> int | None:
        words = words_of(code)
        for index, word in enumerate(words[:-1]):
            if word & _ADRP_MASK == _ADRP_X16:
                loaded = loaded_at(words[index + 1])
                page = page_of(word, address + index * SIZE)
                return None if loaded is None or page is None else page + loaded.offset
        return None

    def slot_of_call(self, code: bytes, offset: int, address: int) -> int | None:
        """Of `adrp; ldr; blr`, with nothing else in between that changes those registers."""
        words = words_of(code[max(0, offset - _BEFORE_CALL * SIZE) : offset + SIZE])
        wanted, within = words[-1] >> 5 & 31, None
        for index in range(len(words) - 2, -1, -1):
            word, at = words[index], address + offset - (len(words) - 1 - index) * SIZE
            meant = meaning(word, (wanted,))
            if meant is None:
                continue
            if meant[1] is not Control.NEXT:
                return None
            if within is None:
                loaded = loaded_at(word)
                if loaded is None:
                    return None
                wanted, within = loaded.base, loaded.offset
            else:
                page = page_of(word, at)
                return None if page is None else page + within
        return None

    def frame_pointer_uses(self, code: bytes) -> Iterator[tuple[int, str]]:
        from capstone import CS_ARCH_ARM64, CS_MODE_ARM, Cs, arm64

        disassembler = Cs(CS_ARCH_ARM64, CS_MODE_ARM)
        disassembler.detail = disassembler.skipdata = True
        names = (arm64.ARM64_REG_X29, arm64.ARM64_REG_W29)
        for ins, word in zip(disassembler.disasm(code, 0), words_of(code), strict=False):
            meant = meaning(word, _EVERY)
            found = meant[0] if meant is not None else ()
            if any(not isinstance(effect, (Store, Exchange)) and effect.target == X29 for effect in found):
                yield ins.address, WRITES
            elif any(isinstance(effect, Store) and effect.source == X29 for effect in found):
                yield ins.address, SAVES
            elif ins.id and any(name in names for name in ins.regs_access()[0]):
                yield ins.address, READS

    def switches(self, code: bytes, address: int, around: Surroundings) -> Switches:
        return Switches(code, address, around)


COMPILED: Compiled = _Code()
