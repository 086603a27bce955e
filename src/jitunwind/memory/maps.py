"""The kernel's list of a process's mappings, as text to `Mapping`s."""

from jitunwind.memory import Mapping

_NAMED_ANONYMOUS = ("[anon:", "[anon_shmem:")
"""What PR_SET_VMA_ANON_NAME (prctl(2)) calls memory; CPython 3.15 uses it (internal/pycore_mmap.h)."""


def parse_maps(text: str) -> list[Mapping]:
    """/proc/PID/maps (proc(5)). `path` is empty for anonymous memory only."""
    mappings = []
    for line in text.splitlines():
        extent, permissions, _offset, _device, inode, *path = line.split(None, 5)
        start, _, end = extent.partition("-")
        named = path[0] if path else "" if inode == "0" else "?"
        if named.startswith(_NAMED_ANONYMOUS):
            named = ""
        mappings.append(Mapping(int(start, 16), int(end, 16), "x" in permissions, named))
    return mappings
