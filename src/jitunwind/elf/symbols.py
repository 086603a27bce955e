"""Names of functions as symbol tables have them for debuggers."""


def symbol_name(name: str) -> str:
    """`name`, so that GDB does not take its end for a compiler's suffix.

    GDB tries to decode each ELF symbol as Ada and prints "hot.py" as "hot[py]" (remove_compiler_suffix in
    gdb/ada-lang.c); a space behind it stops that. Names in DWARF are left alone by it.
    """
    return name + " " if name.rpartition(".")[2].isalpha() and "." in name else name
