"""What compilers and others wrote about their own code, in ELF files, against what the recoverer makes of it."""
