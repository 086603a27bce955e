/* A walker for walker.c: glibc's backtrace(), which is libgcc's unwinder. */

#include <execinfo.h>

#include "walker.h"

int
walk(uintptr_t *pcs, int most)
{
    return backtrace((void **)pcs, most);
}
