/* Consumers: what is told of published code. Each has one row; store.c knows nothing else of them.

   All functions but `find` are called with the lock of publishing held (debugger_lock). A region's code can be read at
   its start, and is complete. Its .eh_frame entries stand in the publication, whichever form its table was given in: FDEs
   that point to `cie`, or, where that is NULL, all entries. */

#ifndef JITUNWIND_CONSUMER_H
#define JITUNWIND_CONSUMER_H

#include <malloc.h>

#include "agent.h"

struct consumer {
    const char *name; /* in Python */
    unsigned bit;     /* in jitunwind.h; two consumers may have the same one */

    /* A library that a process may load later. Publishing goes on without it; once it is there, it is told of what was
       published before. Others have to be there: publishing for them fails with ENOTSUP otherwise. */
    bool joins_late;

    /* Whether it is in this process. For one that joins late, asked only after an object has been loaded. */
    bool (*find)(void);

    /* Tell it of a publication. 0, or an errno: then nothing of it is kept, and `remove` is not called. `region` is
       what was given to publish: its name, its lines. NULL, where the consumer has joined late. */
    int (*add)(struct jitunwind_publication *publication, const struct jitunwind_region *region);

    /* Take it back. True: its readers may be reading the publication still, and this consumer frees it some time
       later; only the first of all may, and it has no `flush`. NULL: what it was told cannot be taken back, as what was
       written to a file. */
    bool (*remove)(struct jitunwind_publication *publication);

    /* Called once after all `add`, or all `remove`, of one call. 0, or an errno, with the rest left for the next time.
       NULL: there is nothing to do. */
    int (*flush)(void);

    /* Why it takes no code, or no more; "": it does. Called with the lock held. NULL: it always does. */
    const char *(*problem)(void);

    /* Add to the statistics what it holds besides the publications. NULL: nothing. */
    void (*count)(struct jitunwind_statistics *statistics);
};

extern const struct consumer symbol_files_consumer, libgcc_consumer, libunwind_consumer, llvm_consumer, jitdump_consumer,
    perf_map_consumer;

/* What malloc gave for a block, and its own word. */
static inline size_t held(const void *block)
{
    return block ? malloc_usable_size((void *)block) + sizeof(size_t) : 0;
}

/* consumers.c: all of them. */
extern const struct consumer *const consumers[];
enum { CONSUMER_COUNT = 6 };

/* 0; EINVAL for bits that no consumer has; ENOTSUP for one that is not in this process. */
int consumers_check(unsigned bits);

/* Look for those of `bits` that join late, and tell them of what is published. */
void consumers_join(unsigned bits, struct jitunwind_publication **published, size_t count);

/* Tell all that the publication is for. 0, or an errno: then none has been told. */
int consumers_add(struct jitunwind_publication *publication, const struct jitunwind_region *region);

/* Tell those of `bits` that do not know it yet of one that is published. 0, or the errno of the first that fails. */
int consumers_add_more(struct jitunwind_publication *publication, const struct jitunwind_region *region, unsigned bits);

/* Take `count` publications, of which some may be NULL, back from all that were told, and free them. */
void consumers_remove(struct jitunwind_publication **publications, size_t count);

/* 0, or the errno of one. */
int consumers_flush(void);

/* That of the first of `bits` that has one; NULL: none has. */
const char *consumers_problem(unsigned bits);

void consumers_count(struct jitunwind_statistics *statistics);

#endif
