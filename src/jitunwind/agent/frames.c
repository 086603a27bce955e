/* Unwinders inside the process: libgcc, and nongnu libunwind and LLVM's where they are loaded.

   libgcc takes .eh_frame bytes as they are, LLVM's libunwind each FDE. nongnu libunwind takes a search table over them (unw_dyn_info_t of
   libunwind-dynamic.h, in the form UNW_INFO_FORMAT_IP_OFFSET, since 1.2); its readers take no lock, so what it was
   given is kept for a while after it was taken back. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"
#include "bytes.h"

static void (*register_frame)(void *);
static void (*deregister_frame)(void *);
static const void *(*find_fde)(void *, void *);

static void find(void)
{
    void *libgcc = dlopen("libgcc_s.so.1", RTLD_LAZY); /* the one that is loaded, if one is; it stays */
    if (!libgcc)
        return;
    void *functions[] = {dlsym(libgcc, "__register_frame"), dlsym(libgcc, "__deregister_frame"),
                         dlsym(libgcc, "_Unwind_Find_FDE")};
    if (functions[0] && functions[1] && functions[2]) {
        memcpy(&register_frame, &functions[0], sizeof(void *));
        memcpy(&deregister_frame, &functions[1], sizeof(void *));
        memcpy(&find_fde, &functions[2], sizeof(void *));
    }
}

bool libgcc_find(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, find);
    return register_frame != NULL;
}

/* While libgcc or LLVM's libunwind learns of frames it holds a lock, and a handler that walks the stack would wait for
   that for ever, if it has interrupted the same thread. */
static sigset_t block_signals(void)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    return before;
}

static void unblock_signals(sigset_t before)
{
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

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

#if defined(__x86_64__)
#define OF_ARCHITECTURE(before, after) before "x86_64" after
#else
#define OF_ARCHITECTURE(before, after) before "aarch64" after
#endif

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

static int is_libunwind(struct dl_phdr_info *info, size_t size, void *adds)
{
    (void)size;
    const char *name = strrchr(info->dlpi_name, '/');
    *(unsigned long long *)adds = info->dlpi_adds;
    return !strncmp(name ? name + 1 : info->dlpi_name, "libunwind", strlen("libunwind"));
}

/* Whether a libunwind may have been loaded since the last time. dlopen would wait for a library that another thread
   loads until its constructors have ended, and they may wait for us. */
bool libunwind_loaded(void)
{
    static unsigned long long adds_before;
    unsigned long long adds = 0;
    if (!dl_iterate_phdr(is_libunwind, &adds))
        return false;
    bool is_new = adds != adds_before;
    adds_before = adds;
    return is_new;
}

bool libunwind_find(void)
{
    static bool tried;
    if (tried)
        return dynamic_register != NULL;
    void *library = dlopen("libunwind.so.8", RTLD_LAZY | RTLD_NOLOAD); /* it stays, then */
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

/* The first look for an address among new frames sorts them, in memory from malloc (init_object in unwind-dw2-fde.c). That
   is done here: a handler that has interrupted malloc must not come to it. */
void libgcc_register(void *frames, size_t size)
{
    const unsigned char *at = frames, *frame = next_frame(&at, at + size);
    void *start, *bases[3];
    sigset_t before = block_signals();
    register_frame(frames);
    if (frame) {
        memcpy(&start, frame + 8, sizeof start);
        find_fde(start, bases);
    }
    unblock_signals(before);
}

void libgcc_deregister(void *frames)
{
    sigset_t before = block_signals();
    deregister_frame(frames);
    unblock_signals(before);
}

/* LLVM's libunwind: __unw_add_dynamic_fde and __unw_remove_dynamic_fde (libunwind.cpp), since LLVM 5. */
static void (*llvm_add)(uint64_t);
static void (*llvm_remove)(uint64_t);

bool llvm_find(void)
{
    static bool tried;
    if (tried)
        return llvm_add != NULL;
    void *library = dlopen("libunwind.so.1", RTLD_LAZY | RTLD_NOLOAD); /* it stays, then */
    if (!library)
        return false;
    tried = true;
    void *functions[] = {dlsym(library, "__unw_add_dynamic_fde"), dlsym(library, "__unw_remove_dynamic_fde")};
    if (functions[0] && functions[1]) {
        memcpy(&llvm_add, &functions[0], sizeof(void *));
        memcpy(&llvm_remove, &functions[1], sizeof(void *));
    }
    return llvm_add != NULL;
}

static void for_each_frame(const unsigned char *at, size_t size, void (*function)(uint64_t))
{
    const unsigned char *end = at + size, *frame;
    sigset_t before = block_signals();
    while ((frame = next_frame(&at, end)))
        function((uint64_t)(uintptr_t)frame);
    unblock_signals(before);
}

/* It counts back from an FDE to its CIE without a sign (decodeFDE): where a shared CIE lies behind, it gets a copy of
   both. */
static size_t size_for_llvm(const struct jitunwind_publication *publication)
{
    const struct cie *cie = publication->cie;
    bool is_copy = cie && (uintptr_t)cie > (uintptr_t)publication->frames;
    return publication->frames_size + (is_copy ? cie->size : 0);
}

void llvm_register(struct jitunwind_publication *publication)
{
    size_t size = size_for_llvm(publication);
    unsigned char *frames = publication->frames;
    if (size > publication->frames_size) {
        const struct cie *cie = publication->cie;
        frames = malloc(size);
        if (!frames)
            return;
        cie_put_frames(put(frames, cie->bytes, cie->size), publication->frames, publication->frames_size, frames);
    }
    publication->llvm = frames;
    for_each_frame(frames, size, llvm_add);
}

void llvm_deregister(struct jitunwind_publication *publication)
{
    for_each_frame(publication->llvm, size_for_llvm(publication), llvm_remove);
    if (publication->llvm != publication->frames)
        free(publication->llvm);
    publication->llvm = NULL;
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

struct dynamic_info *libunwind_register(const struct jitunwind_publication *publication)
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

void libunwind_cancel(struct jitunwind_publication *publication)
{
    struct dynamic_info *info = publication->dynamic;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    cancel(info);
    free_retired(now.tv_sec - KEPT_SECONDS);
    info->retired_at = now.tv_sec;
    info->retired_with = publication;
    info->retired_before = retired;
    retired = info;
}
