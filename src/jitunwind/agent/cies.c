/* CIEs, kept once for the frames of all regions that begin with the same. Format: LSB core 5.0, section 10.6.1. */

#include <stdlib.h>
#include <string.h>

#include "agent.h"
#include "bytes.h"

enum { MOST_CIES = 64 };

static const struct cie *cies;
static unsigned count;

const struct cie *cie_first(void)
{
    return cies;
}

/* The size of the CIE that all frames share; 0, if they do not begin with one that they all have. */
static size_t common(const unsigned char *frames, size_t size)
{
    uint32_t length, back;
    size_t at = 0, cie_size = 0;
    while (at < size) {
        memcpy(&length, frames + at, sizeof length);
        memcpy(&back, frames + at + 4, sizeof back);
        if (!back == (at > 0) || (back && back != at + 4))
            return 0;
        at += 4 + (size_t)length;
        if (!back)
            cie_size = at;
    }
    return cie_size;
}

const struct cie *cie_of(const unsigned char *frames, size_t size)
{
    size_t cie_size = common(frames, size);
    if (!cie_size)
        return NULL;
    for (const struct cie *known = cies; known; known = known->next)
        if (known->size == cie_size && !memcmp(known->bytes, frames, cie_size))
            return known;
    struct cie *new = count < MOST_CIES ? malloc(sizeof *new + cie_size) : NULL;
    if (new) {
        count++;
        new->next = cies;
        new->size = cie_size;
        memcpy(new->bytes, frames, cie_size);
        cies = new;
    }
    return new;
}

/* libgcc (get_cie in unwind-dw2-fde.h) and nongnu libunwind (dwarf_extract_proc_info_from_fde) count back from an FDE by
   32 bits with a sign. */
bool cie_reaches(const struct cie *cie, const unsigned char *frames, size_t size)
{
    intptr_t first = (intptr_t)frames - (intptr_t)cie, last = first + (intptr_t)size;
    return INT32_MIN < first && last < INT32_MAX;
}

unsigned char *cie_put_frames(unsigned char *at, const unsigned char *frames, size_t size, const unsigned char *cie)
{
    unsigned char *end = put(at, frames, size);
    while (cie && at < end) {
        uint32_t length, back = (uint32_t)((uintptr_t)at + 4 - (uintptr_t)cie);
        memcpy(&length, at, sizeof length);
        put(at + 4, &back, sizeof back);
        at += 4 + (size_t)length;
    }
    return end;
}
