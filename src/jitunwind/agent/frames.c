/* Unwinders inside the process: libgcc, and nongnu libunwind where it is loaded.

   libgcc takes .eh_frame bytes as they are. libunwind takes a search table over them (unw_dyn_info_t of
   libunwind-dynamic.h, in the form UNW_INFO_FORMAT_IP_OFFSET, since 1.2); its readers take no lock, so what it was
   given is kept for a while after it was taken back. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "agent.h"

static void (*register_frame)(void *);
static void (*deregister_frame)(void *);

static void find(void)
{
    void *libgcc = dlopen("libgcc_s.so.1", RTLD_LAZY); /* the one that is loaded, if one is; it stays */
    if (!libgcc)
        return;
    void *functions[] = {dlsym(libgcc, "__register_frame"), dlsym(libgcc, "__deregister_frame")};
    if (functions[0] && functions[1]) {
        memcpy(&register_frame, &functions[0], sizeof(void *));
        memcpy(&deregister_frame, &functions[1], sizeof(void *));
    }
}

bool libgcc_find(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, find);
    return register_frame != NULL;
}

void libgcc_register(void *frames)
{
    register_frame(frames);
}

void libgcc_deregister(void *frames)
{
    deregister_frame(frames);
}

/* unw_dyn_info_t, as far as this form uses it. */
struct dynamic_info {
    struct dynamic_info *next, *prev;
    uint64_t start, end, gp;
    int32_t format, padding;
    uint64_t load_offset;
    uint64_t name;
    uint64_t base;        /* what `frame` of an entry counts from */
    uint64_t table_words; /* of 8 bytes: one an entry */
    const void *table;
    uint64_t reserved[4];
    struct dynamic_info *retired_before;
    void *frames;
    time_t retired_at;
    struct {
        int32_t start; /* from the info's own start */
        int32_t frame;
    } entries[];
};
enum { IP_OFFSET = 4, KEPT_SECONDS = 10 };

static void (*dynamic_register)(struct dynamic_info *);
static void (*dynamic_cancel)(struct dynamic_info *);
static void (*flush_cache)(void *, uint64_t, uint64_t);
static void **local_space;
static struct dynamic_info *retired; /* the newest first */

bool libunwind_find(void)
{
    if (dynamic_register)
        return true;
    void *library = dlopen("libunwind.so.8", RTLD_LAZY | RTLD_NOLOAD);
    if (!library)
        return false;
    void *functions[] = {dlsym(library, "_U_dyn_register"), dlsym(library, "_U_dyn_cancel"),
#if defined(__x86_64__)
                         dlsym(library, "_Ux86_64_flush_cache")};
    local_space = dlsym(library, "_ULx86_64_local_addr_space");
#else
                         dlsym(library, "_Uaarch64_flush_cache")};
    local_space = dlsym(library, "_ULaarch64_local_addr_space");
#endif
    if (!functions[0] || !functions[1])
        return false;
    memcpy(&dynamic_cancel, &functions[1], sizeof(void *));
    memcpy(&flush_cache, &functions[2], sizeof(void *));
    memcpy(&dynamic_register, &functions[0], sizeof(void *));
    return true;
}

/* The next FDE of .eh_frame entries, from `*at` on; NULL behind the last. */
static const unsigned char *next_frame(const unsigned char **at, const unsigned char *end)
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

/* Whether the region's .eh_frame entries are whole, and cover nothing but the region. */
bool frames_sensible(const struct jitunwind_region *region)
{
    const unsigned char *frames = region->eh_frame;
    size_t at = 0, size = region->eh_frame_size;
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

struct dynamic_info *libunwind_register(const struct jitunwind_region *region, unsigned char *frames)
{
    const unsigned char *end = frames + region->eh_frame_size, *at = frames, *frame;
    size_t count = 0;
    while (next_frame(&at, end))
        count++;
    struct dynamic_info *info = calloc(1, sizeof *info + count * sizeof info->entries[0]);
    if (!info)
        return NULL;
    info->start = region->start;
    info->end = region->start + region->size;
    info->format = IP_OFFSET;
    info->base = (uint64_t)(uintptr_t)frames;
    info->table_words = count;
    info->table = info->entries;
    info->frames = frames;
    at = frames;
    for (size_t i = 0; (frame = next_frame(&at, end)); i++) {
        uint64_t start;
        memcpy(&start, frame + 8, sizeof start);
        info->entries[i].start = (int32_t)(start - region->start);
        info->entries[i].frame = (int32_t)(frame - frames);
    }
    dynamic_register(info);
    return info;
}

static void free_retired(time_t until)
{
    struct dynamic_info **link = &retired;
    while (*link && (*link)->retired_at > until)
        link = &(*link)->retired_before;
    struct dynamic_info *old = *link;
    *link = NULL;
    while (old) {
        struct dynamic_info *before = old->retired_before;
        free(old->frames);
        free(old);
        old = before;
    }
}

/* Takes back what was registered, and frees its frames later on. */
void libunwind_cancel(struct dynamic_info *info)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    dynamic_cancel(info);
    if (flush_cache && local_space)
        flush_cache(*local_space, 0, 0);
    free_retired(now.tv_sec - KEPT_SECONDS);
    info->retired_at = now.tv_sec;
    info->retired_before = retired;
    retired = info;
}
