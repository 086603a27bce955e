"""The lines that GDB is given to find debug files, or to leave them. Runs outside GDB, in the user's Python."""

import os
from collections.abc import Sequence

_OPTION = "debug-file-directory"
ASK = f"python import gdb; own_debug_folders = gdb.parameter({_OPTION!r})"
"""The GDB command that keeps, for its Python, where it looks by itself."""
WITHOUT = f"set {_OPTION}"
"""The GDB command that has it read no debug files."""


def setting(folders: Sequence[str]) -> str:
    """The GDB command that has it look for debug files in `folders`, and then in its own."""
    both = f"[*{list(folders)!r}, *gdb.parameter({_OPTION!r}).split({os.pathsep!r})]"
    joined = f"{os.pathsep!r}.join(filter(None, dict.fromkeys({both})))"
    return f"python import gdb; gdb.execute('set {_OPTION} ' + {joined})"
