"""The code that runs inside GDB's own Python (3.11 and later): an unwinder, names and lines, commands.

Thin: what is true of JIT code is known elsewhere. Nothing here throws into GDB or calls functions in the
inferior.
"""
