"""DWARF bytes to tables and back: no ELF, no process."""
