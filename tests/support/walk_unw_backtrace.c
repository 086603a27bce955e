/* A walker for walker.c: nongnu libunwind's unw_backtrace.

   It remembers for ever, for each thread, what it found at a program counter; also that it found nothing. So it is
   called when all is published, and not before. */

#define UNW_LOCAL_ONLY
#include <libunwind.h>

#include "walker.h"

int
walk(uintptr_t *pcs, int most)
{
    return unw_backtrace((void **)pcs, most);
}
