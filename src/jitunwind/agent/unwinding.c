/* What the files of unwinders share. */

#define _GNU_SOURCE
#include <link.h>
#include <string.h>

#include "unwinding.h"

sigset_t block_signals(void)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    return before;
}

void unblock_signals(sigset_t before)
{
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

const unsigned char *next_frame(const unsigned char **at, const unsigned char *end)
{
    while (*at + 8 <= end) {
        const unsigned char *entry = *at;
        uint32_t length, cie;
        memcpy(&length, entry, sizeof length);
        memcpy(&cie, entry + 4, sizeof cie);
        *at += 4 + (size_t)length;
        if (cie)
            return entry;
    }
    return NULL;
}

bool frames_sensible(const struct jitunwind_region *region, const unsigned char *frames, size_t size)
{
    size_t at = 0;
    while (at < size) {
        uint32_t length, cie;
        uint64_t start, extent;
        if (size - at < 8)
            return false;
        memcpy(&length, frames + at, sizeof length);
        memcpy(&cie, frames + at + 4, sizeof cie);
        if (length < 4 || length > size - at - 4)
            return false;
        if (cie) {
            if (length < 20 || cie > at + 4)
                return false;
            memcpy(&start, frames + at + 8, sizeof start);
            memcpy(&extent, frames + at + 16, sizeof extent);
            if (start < region->start || extent > region->size || start - region->start > region->size - extent)
                return false;
        }
        at += 4 + (size_t)length;
    }
    return true;
}

static int is_libunwind(struct dl_phdr_info *info, size_t size, void *unused)
{
    (void)size, (void)unused;
    const char *name = strrchr(info->dlpi_name, '/');
    return !strncmp(name ? name + 1 : info->dlpi_name, "libunwind", strlen("libunwind"));
}

bool libunwind_loaded(void)
{
    return dl_iterate_phdr(is_libunwind, NULL);
}
