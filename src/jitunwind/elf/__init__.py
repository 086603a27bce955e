"""ELF: reading files, and writing the object that describes JIT code."""
