"""LEB128, the variable-length integers of DWARF (DWARF 5, section 7.6)."""


def unsigned(value: int) -> bytes:
    """`value` >= 0 as ULEB128. ValueError for a negative one."""
    if value < 0:
        raise ValueError(f"{value} is not unsigned")
    out = bytearray()
    while True:
        byte = value & 0x7F
        value >>= 7
        if not value:
            out.append(byte)
            return bytes(out)
        out.append(byte | 0x80)


def signed(value: int) -> bytes:
    """`value` as SLEB128."""
    out = bytearray()
    while True:
        byte = value & 0x7F
        value >>= 7
        if (value == 0 and not byte & 0x40) or (value == -1 and byte & 0x40):
            out.append(byte)
            return bytes(out)
        out.append(byte | 0x80)
