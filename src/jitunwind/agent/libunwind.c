/* nongnu libunwind, where it is loaded.

   It takes a search table over .eh_frame entries (unw_dyn_info_t of libunwind-dynamic.h, in the form
   UNW_INFO_FORMAT_IP_OFFSET, since 1.2). Its readers take no lock, so what it was given is kept for a while after it was
   taken back. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "arch.h"
#include "consumer.h"
#include "unwinding.h"

/* unw_dyn_info_t, in the form that refers to frames by their addresses. What follows `padding` is: name, base (what
   `frame` of an entry counts from), words of the table (one an entry), table; in libunwind 1.6 to 1.8 with one word
   more before them (load_offset). */
struct dynamic_info {
    struct dynamic_info *next, *prev;
    uint64_t start, end, gp;
    int32_t format, padding;
    uint64_t words[10];
    struct dynamic_info *retired_before;
    struct jitunwind_publication *retired_with;
    time_t retired_at;
    struct frame_entry entries[];
};
enum { UNW_INFO_FORMAT_IP_OFFSET = 4, KEPT_SECONDS = 10 };

static void (*dynamic_register)(struct dynamic_info *);
static void (*dynamic_cancel)(struct dynamic_info *);
static void (*flush_cache)(void *, uint64_t, uint64_t);
static void **local_space;
static unsigned words_before; /* `name` */
static struct dynamic_info *retired; /* the newest first */
static uint64_t bytes_held;

#define OF_ARCHITECTURE(before, after) before ARCH_NAME after

static void describe(struct dynamic_info *info, uint64_t start, uint64_t end, const void *frames,
                     const struct frame_entry *table, size_t count)
{
    uint64_t *words = info->words + words_before;
    info->start = start;
    info->end = end;
    info->format = UNW_INFO_FORMAT_IP_OFFSET;
    words[1] = (uint64_t)(uintptr_t)frames;
    words[2] = count;
    words[3] = (uint64_t)(uintptr_t)table;
}

typedef int (*find_by_address_t)(void *, uint64_t, void *, void *);

/* Whether libunwind finds what is registered in the layout that words_before says. In the wrong one it has to see a
   table of no words, not one that it would follow: so `base` is 0, and the frames lie where 31 bits reach, in `page`. */
static bool layout_works(find_by_address_t find_by_address, unsigned char *page)
{
    enum { FRAME_AT = 24, TABLE_AT = 512, CODE_AT = 2048, CODE_SIZE = 16 };
    static const unsigned char frames[32] = {20, 0, 0, 0, 0, 0, 0, 0, 1, 'z', 'R', 0, 1, 0x78, 16, 1,
                                             0 /* absptr */, 0x0c, 7, 8, 0x90, 1, 0, 0, 24, 0, 0, 0, 28};
    uint64_t code[] = {(uint64_t)(uintptr_t)page + CODE_AT, CODE_SIZE}, answer[64] = {0}; /* begins: start, end */
    struct dynamic_info info = {.next = NULL};
    struct frame_entry entry = {0, (int32_t)(uintptr_t)(page + FRAME_AT)};
    memcpy(page, frames, sizeof frames);
    memcpy(page + sizeof frames, code, sizeof code);
    memcpy(page + TABLE_AT, &entry, sizeof entry);
    describe(&info, code[0], code[0] + CODE_SIZE, NULL, (struct frame_entry *)(page + TABLE_AT), 1);
    dynamic_register(&info);
    bool found = !find_by_address(*local_space, code[0] + 4, answer, NULL) && answer[0] == code[0] &&
                 answer[1] == code[0] + CODE_SIZE;
    dynamic_cancel(&info);
    flush_cache(*local_space, 0, 0);
    return found;
}

static bool find_layout(find_by_address_t find_by_address)
{
    static const unsigned layouts[] = {1, 0};
    enum { LOW = 0x10000000, PAGE = 4096 };
    bool found = false;
#ifdef MAP_32BIT
    int low = MAP_32BIT;
#else
    int low = 0;
#endif
    unsigned char *page =
        mmap((void *)LOW, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | low, -1, 0);
    if (page == MAP_FAILED)
        return false;
    for (unsigned i = 0; i < 2 && !found && (uintptr_t)page <= INT32_MAX - PAGE; i++) {
        words_before = layouts[i];
        found = layout_works(find_by_address, page);
    }
    syscall(SYS_munmap, page, PAGE); /* `munmap` may be our own */
    return found;
}

bool libunwind_find(void)
{
    static bool tried;
    if (tried)
        return dynamic_register != NULL;
    void *library = libunwind_loaded() ? dlopen("libunwind.so.8", RTLD_LAZY | RTLD_NOLOAD) : NULL; /* it stays, then */
    if (!library)
        return false;
    tried = true;
    void *functions[] = {dlsym(library, "_U_dyn_register"), dlsym(library, "_U_dyn_cancel"),
                         dlsym(library, OF_ARCHITECTURE("_U", "_flush_cache")),
                         dlsym(library, OF_ARCHITECTURE("_UL", "_get_proc_info_by_ip"))};
    find_by_address_t find_by_address;
    local_space = dlsym(library, OF_ARCHITECTURE("_UL", "_local_addr_space"));
    if (!functions[0] || !functions[1] || !functions[2] || !functions[3] || !local_space)
        return false;
    memcpy(&dynamic_register, &functions[0], sizeof(void *));
    memcpy(&dynamic_cancel, &functions[1], sizeof(void *));
    memcpy(&flush_cache, &functions[2], sizeof(void *));
    memcpy(&find_by_address, &functions[3], sizeof(void *));
    if (!find_layout(find_by_address))
        dynamic_register = NULL;
    return dynamic_register != NULL;
}

static int by_start(const void *one, const void *other)
{
    int32_t difference = ((const struct frame_entry *)one)->start - ((const struct frame_entry *)other)->start;
    return (difference > 0) - (difference < 0);
}

/* An info that gets `count` entries; NULL without memory. */
static struct dynamic_info *new_info(size_t count)
{
    struct dynamic_info *info = calloc(1, sizeof *info + count * sizeof info->entries[0]);
    return info;
}

static struct dynamic_info *registered(struct dynamic_info *info, uint64_t start, uint64_t end, const void *frames,
                                       size_t count)
{
    qsort(info->entries, count, sizeof info->entries[0], by_start);
    describe(info, start, end, frames, info->entries, count);
    dynamic_register(info);
    return info;
}

/* NULL without memory. */
static struct dynamic_info *register_publication(const struct jitunwind_publication *publication)
{
    const unsigned char *frames = publication->frames, *end = frames + publication->frames_size, *at = frames, *frame;
    size_t count = 0;
    while (next_frame(&at, end))
        count++;
    struct dynamic_info *info = new_info(count);
    if (!info)
        return NULL;
    at = frames;
    for (size_t i = 0; (frame = next_frame(&at, end)); i++) {
        uint64_t start;
        memcpy(&start, frame + 8, sizeof start);
        info->entries[i].start = (int32_t)(start - publication->start);
        info->entries[i].frame = (int32_t)(frame - frames);
    }
    return registered(info, publication->start, publication->start + publication->size, frames, count);
}

struct dynamic_info *libunwind_register_table(const struct frame_table *table)
{
    struct dynamic_info *info = new_info(table->count);
    if (!info)
        return NULL;
    memcpy(info->entries, table->entries, table->count * sizeof table->entries[0]);
    return registered(info, table->start, table->end, table->frames, table->count);
}

static void cancel(struct dynamic_info *info)
{
    dynamic_cancel(info);
    flush_cache(*local_space, 0, 0);
}

void libunwind_cancel_table(void *info)
{
    cancel(info);
    free(info);
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
        free(old->retired_with);
        free(old);
        old = before;
    }
}

static int add(struct jitunwind_publication *publication, const struct jitunwind_region *region)
{
    (void)region;
    if (!publication->frames_size || publication->size > INT32_MAX) /* it counts in 31 bits */
        return 0;
    publication->dynamic = register_publication(publication);
    if (!publication->dynamic)
        return ENOMEM;
    bytes_held += held(publication->dynamic);
    return 0;
}

static bool take_back(struct jitunwind_publication *publication)
{
    struct dynamic_info *info = publication->dynamic;
    struct timespec now;
    if (!info)
        return false;
    bytes_held -= held(info);
    clock_gettime(CLOCK_MONOTONIC, &now);
    cancel(info);
    free_retired(now.tv_sec - KEPT_SECONDS);
    info->retired_at = now.tv_sec;
    info->retired_with = publication;
    info->retired_before = retired;
    retired = info;
    return true;
}

static void count_bytes(struct jitunwind_statistics *statistics)
{
    statistics->bytes += bytes_held;
}

const struct consumer libunwind_consumer = {
    .name = "libunwind",
    .bit = JITUNWIND_LIBUNWIND,
    .joins_late = true,
    .find = libunwind_find,
    .add = add,
    .remove = take_back,
    .count = count_bytes,
};
