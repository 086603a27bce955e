"""Files that a test writes again and again."""

from pathlib import Path


def write_anew(path: Path, data: bytes | bytearray) -> None:
    """Make `path` a new file with that content. An old one that is cut to nothing and written again would be flushed
    to the disk each time (ext4's auto_da_alloc), which takes milliseconds."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)
