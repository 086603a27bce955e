"""The numbers of call frame information, which decoder and encoder share: DWARF 5 and the LSB's `.eh_frame`."""

from enum import IntEnum


class CallFrame(IntEnum):
    """DW_CFA_*: DWARF 5 section 7.24, table 7.29. The first three carry an operand in their low six bits."""

    ADVANCE_LOC = 0x40
    OFFSET = 0x80
    RESTORE = 0xC0
    NOP = 0x00
    SET_LOC = 0x01
    ADVANCE_LOC1 = 0x02
    ADVANCE_LOC2 = 0x03
    ADVANCE_LOC4 = 0x04
    OFFSET_EXTENDED = 0x05
    RESTORE_EXTENDED = 0x06
    UNDEFINED = 0x07
    SAME_VALUE = 0x08
    REGISTER = 0x09
    REMEMBER_STATE = 0x0A
    RESTORE_STATE = 0x0B
    DEF_CFA = 0x0C
    DEF_CFA_REGISTER = 0x0D
    DEF_CFA_OFFSET = 0x0E
    DEF_CFA_EXPRESSION = 0x0F
    EXPRESSION = 0x10
    OFFSET_EXTENDED_SF = 0x11
    DEF_CFA_SF = 0x12
    DEF_CFA_OFFSET_SF = 0x13
    VAL_OFFSET = 0x14
    VAL_OFFSET_SF = 0x15
    VAL_EXPRESSION = 0x16
    # AADWARF64 section 4.4: the return address in memory is signed from here on, or no longer. Its place is
    # the same; taking the signature off is for whoever reads it.
    AARCH64_NEGATE_RA_STATE_WITH_PC = 0x2C
    AARCH64_NEGATE_RA_STATE = 0x2D
    # LSB core 5.0, table 10-1 (DWARF extensions).
    GNU_ARGS_SIZE = 0x2E
    GNU_NEGATIVE_OFFSET_EXTENDED = 0x2F


class PointerFormat(IntEnum):
    """Low four bits of a pointer's encoding: LSB core 5.0, table 10-5 (DW_EH_PE_*)."""

    ABSPTR = 0x00
    ULEB128 = 0x01
    UDATA2 = 0x02
    UDATA4 = 0x03
    UDATA8 = 0x04
    SLEB128 = 0x09
    SDATA2 = 0x0A
    SDATA4 = 0x0B
    SDATA8 = 0x0C


class PointerBase(IntEnum):
    """Bits 4 to 6 of a pointer's encoding: LSB core 5.0, table 10-6 (DW_EH_PE_*)."""

    ABSOLUTE = 0x00
    PCREL = 0x10
    TEXTREL = 0x20
    DATAREL = 0x30
    FUNCREL = 0x40
    ALIGNED = 0x50


OMITTED = 0xFF
"""DW_EH_PE_omit: there is none."""
