"""Small files, as /proc has them, read whole. pathlib does the same, and takes 3 ms to import, which `bt` counts."""


def text_of(path: str, errors: str = "replace") -> str:
    """The text of the file at `path`. OSError."""
    with open(path, errors=errors) as file:
        return file.read()


def bytes_of(path: str) -> bytes:
    """The bytes of the file at `path`. OSError."""
    with open(path, "rb", buffering=0) as file:
        return file.read()
