/* What the files of unwinders share: signals, .eh_frame entries, and libraries that may be there. */

#ifndef JITUNWIND_UNWINDING_H
#define JITUNWIND_UNWINDING_H

#include <signal.h>

#include "agent.h"

/* While libgcc or LLVM's libunwind learns of frames it holds a lock, and a handler that walks the stack would wait for
   that for ever, if it has interrupted the same thread. */
sigset_t block_signals(void);
void unblock_signals(sigset_t before);

/* The next FDE of .eh_frame entries, from `*at` on; NULL behind the last. */
const unsigned char *next_frame(const unsigned char **at, const unsigned char *end);

/* Whether .eh_frame entries are whole, and cover nothing but the region. */
bool frames_sensible(const struct jitunwind_region *region, const unsigned char *frames, size_t size);

/* Whether a library is loaded that is called libunwind. dlopen would wait for one that another thread loads until its
   constructors have ended, and they may wait for us. */
bool libunwind_loaded(void);

/* libgcc.c. `frames` are .eh_frame entries with a terminator behind them; `size` is without it, or 0: then the first
   look among them is not made here. */
bool libgcc_find(void);
void libgcc_register(void *frames, size_t size);
void libgcc_deregister(void *frames);

/* libunwind.c, for the audit's readers: .eh_frame entries that stay where they are until they are cancelled. For
   libunwind of one thread. */
struct frame_entry {
    int32_t start; /* of the FDE's code, from that of the table */
    int32_t frame; /* the FDE, from the first entry */
};
struct frame_table {
    uint64_t start, end; /* of all its code */
    const unsigned char *frames;
    size_t count;
    struct frame_entry entries[];
};
bool libunwind_find(void);
struct dynamic_info *libunwind_register_table(const struct frame_table *table);
void libunwind_cancel_table(void *info);

#endif
