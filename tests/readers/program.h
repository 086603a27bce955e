/* What program.c asks of a reader: one ask_*.c is compiled together with it. */

#ifndef PROGRAM_H
#define PROGRAM_H

#include <stddef.h>
#include <stdint.h>

/* One hand-made function with its table, as cases.py lays it out. Addresses are those in memory. */
struct slot {
    uint64_t code, code_size;
    uint64_t table, table_size; /* .eh_frame, with its terminator */
    uint64_t header, header_size; /* .eh_frame_hdr */
    uint64_t image, image_size; /* an ELF file with all that */
    uint64_t number;
};

/* Whether the reader gives the values of registers, and whether each case needs a process of its own. */
extern const int tells_registers, in_child;

/* Before the function of a slot is called. */
void tell(const struct slot *slot);

/* The function calls it; it walks the stack from there, and gives what it finds to the two below. */
void ask(void);

/* A frame: its program counter, and its stack pointer and rbx, or NULL where the reader does not tell. Returns whether
   it wants more. */
int frame(uint64_t pc, const uint64_t *sp, const uint64_t *rbx);

/* The reader has come to an end by itself (0), or says that it cannot go on. */
void ended(long error);

#endif
