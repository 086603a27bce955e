"""Puts the plugin's parts into GDB."""

import gdb
import gdb.unwinder

from jitunwind.gdbplugin import commands, publisher, session, symbols
from jitunwind.gdbplugin.unwinder import JitUnwinder


def install() -> None:
    """Register everything; a second time replaces the first."""
    gdb.unwinder.register_unwinder(None, JitUnwinder(), replace=True)
    session.watch()
    symbols.install()
    commands.install()
    publisher.install()
    gdb.invalidate_cached_frames()
    symbols.synchronize()  # the process may stand still already
