"""GDB's remote protocol: the memory of a process behind a stub, and control over how it runs."""
