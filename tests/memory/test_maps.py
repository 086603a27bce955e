"""The kernel's list of mappings."""

from jitunwind.memory import Mapping
from jitunwind.memory.maps import parse_maps

MAPS = """\
00400000-00421000 r-xp 00000000 fe:00 16058659                           /usr/bin/python3.14
00421000-00422000 rw-p 00021000 fe:00 16058659                           /opt/a b/python3.14 (deleted)
01000000-01200000 rw-p 00000000 00:00 0                                  [heap]
7f0000000000-7f0000002000 r-xp 00000000 00:00 0 
7f0000002000-7f0000004000 r-xp 00000000 00:00 0                          [anon:cpython:jit]
7f0000004000-7f0000006000 rw-s 00000000 00:01 4711                       /dev/zero (deleted)
7f0000006000-7f0000008000 rw-s 00000000 00:01 4712 
7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0                          [stack]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
"""  # noqa: W291


def test_every_kind_of_line() -> None:
    assert parse_maps(MAPS) == [
        Mapping(0x400000, 0x421000, True, "/usr/bin/python3.14"),
        Mapping(0x421000, 0x422000, False, "/opt/a b/python3.14 (deleted)"),
        Mapping(0x1000000, 0x1200000, False, "[heap]"),
        Mapping(0x7F0000000000, 0x7F0000002000, True, ""),
        Mapping(0x7F0000002000, 0x7F0000004000, True, ""),  # its name makes it no file
        Mapping(0x7F0000004000, 0x7F0000006000, False, "/dev/zero (deleted)"),
        Mapping(0x7F0000006000, 0x7F0000008000, False, "?"),
        Mapping(0x7FFD00000000, 0x7FFD00021000, False, "[stack]"),
        Mapping(0xFFFFFFFFFF600000, 0xFFFFFFFFFF601000, True, "[vsyscall]"),
    ]
