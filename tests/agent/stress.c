/* Threads that publish and withdraw regions of all kinds while processes are forked: `stress PUBLISHES CYCLES [LIBRARY]`.

   Each thread has code of its own, in slots, and knows of each slot what is published of it; so does the child of a
   fork, which walks the debuggers' list and reads every symbol file. Of the code of the hooks, which a worker
   publishes, it only knows that the files have to be whole. After each cycle all has to be as it was before; with LIBRARY, libunwind's,
   all but the memory: what libunwind was given is kept for some time. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unwind.h>

#include "agent.h"
#include "check.h"

enum { THREADS = 8, SLOTS = 96, SLOT_SIZE = 64, MOST_AT_ONCE = 8, PAGE = 4096, HOOKED_AT_ONCE = 16 };

/* Code that calls what it is given, and its rows. */
#if defined(__x86_64__)
enum { RBX = 3, RIP = 16, RSP = 7 };
static const uint8_t code[] = {0x53, 0xff, 0xd7, 0x5b, 0xc3}; /* push %rbx; call *%rdi; pop %rbx; ret */
enum { BEHIND_CALL = 3 };
static const struct jitunwind_rule at_entry[] = {{RIP, JITUNWIND_SAVED_AT, -8}};
static const struct jitunwind_rule pushed[] = {{RIP, JITUNWIND_SAVED_AT, -8}, {RBX, JITUNWIND_SAVED_AT, -16}};
static const struct jitunwind_row rows[] = {
    {0, RSP, 1, 8, at_entry}, {1, RSP, 2, 16, pushed}, {4, RSP, 1, 8, at_entry}};
#else
enum { X19 = 19, X30 = 30, SP = 31 };
static const uint32_t code[] = {
    0xa9bf4ffe, /* stp x30, x19, [sp, #-16]! */
    0xd63f0000, /* blr x0 */
    0xa8c14ffe, /* ldp x30, x19, [sp], #16 */
    0xd65f03c0, /* ret */
};
enum { BEHIND_CALL = 8 };
static const struct jitunwind_rule at_entry[] = {{X30, JITUNWIND_SAME_VALUE, 0}};
static const struct jitunwind_rule pushed[] = {{X30, JITUNWIND_SAVED_AT, -16}, {X19, JITUNWIND_SAVED_AT, -8}};
static const struct jitunwind_row rows[] = {
    {0, SP, 1, 0, at_entry}, {4, SP, 2, 16, pushed}, {12, SP, 1, 0, at_entry}};
#endif
enum { ROWS = sizeof rows / sizeof *rows };

/* Of the debugging information the checker wants, in a unit, its size, its names and its line program; in that, its
   first file, and the address behind that, where there are no others. */
enum { UNIT_SIZE = 46, FILE_NAME_AT = 14, LOW_PC_AT = 18, STMT_LIST_AT = 27, NAME_AT = 32 };
enum { FILE_AT = 35, ADDRESS_AT = 42 };

/* What a slot holds. While it changes nobody can say. */
enum { ABSENT, CHANGES, PRESENT };
struct slot {
    _Atomic int state;
    _Atomic unsigned consumers;
};
static struct slot slots[THREADS][SLOTS];
static unsigned char *blocks[THREADS];

static unsigned threads_each, forks;
static _Atomic unsigned publishes, at_work;
static pthread_barrier_t barrier;
static sem_t fork_now;
enum { FORK_EVERY = 1000 };

/* libgcc's own question: who describes that address? */
struct bases {
    void *text, *data, *function;
};
const void *_Unwind_Find_FDE(void *, struct bases *);

static uint64_t start_of(unsigned thread, unsigned slot)
{
    return (uintptr_t)blocks[thread] + (uint64_t)slot * SLOT_SIZE;
}

static void make_executable(unsigned char *block)
{
    __builtin___clear_cache((char *)block, (char *)block + SLOTS * SLOT_SIZE);
    mprotect(block, SLOTS * SLOT_SIZE, PROT_READ | PROT_EXEC);
}

static bool has_lines(uint64_t start)
{
    return start / SLOT_SIZE % 3;
}

static bool is_found(uint64_t start)
{
    struct bases bases;
    if (!_Unwind_Find_FDE((void *)(start + BEHIND_CALL), &bases))
        return false;
    CHECK((uintptr_t)bases.function == start, "%p for %#lx", bases.function, start);
    return true;
}

/* Unwinding through a region: `seen` has the callers of `observe`. */
enum { DEEPEST = 8 };
struct seen {
    unsigned count;
    uintptr_t addresses[DEEPEST];
};
static _Thread_local struct seen seen;

static _Unwind_Reason_Code note(struct _Unwind_Context *context, void *unused)
{
    (void)unused;
    if (seen.count == DEEPEST)
        return _URC_END_OF_STACK;
    seen.addresses[seen.count++] = _Unwind_GetIP(context);
    return _URC_NO_REASON;
}

static void observe(void)
{
    seen.count = 0;
    _Unwind_Backtrace(note, NULL);
}

static __attribute__((noinline)) void call_through(uint64_t start)
{
    void (*function)(void (*)(void));
    memcpy(&function, &start, sizeof function);
    function(observe);
    __asm__ volatile("" ::: "memory");
}

/* Whether an unwinder that was called by the region's code finds who called that. */
static bool is_unwound(uint64_t start)
{
    call_through(start);
    for (unsigned i = 0; i + 1 < seen.count; i++)
        if (seen.addresses[i] == start + BEHIND_CALL)
            return _Unwind_FindEnclosingFunction((void *)seen.addresses[i + 1]) == (void *)call_through;
    return false;
}

static unsigned random_below(unsigned *state, unsigned bound)
{
    *state = *state * 1664525 + 1013904223;
    return (unsigned)((uint64_t)*state * bound >> 32);
}

/* .eh_frame entries that say the same as `rows`, made by the agent; the caller frees them. */
static unsigned char *own_frames(uint64_t start, size_t *size)
{
    struct jitunwind_region region = {.start = start, .size = SLOT_SIZE, .rows = rows, .row_count = ROWS};
    unsigned char *frames = cfi_of_rows(&region, size);
    CHECK(frames);
    return frames;
}

struct source { /* what a description points to, until it is published */
    char name[24];
    struct jitunwind_line lines[2];
    unsigned char *frames;
};

/* Files that many regions have. */
static const char *file_of(uint64_t start)
{
    static const char *const files[] = {"/tmp/one.c", "/tmp/other.c"};
    return files[start / SLOT_SIZE & 1];
}

static void describe(struct jitunwind_region *region, struct source *source, uint64_t start, bool with_rows)
{
    *region = (struct jitunwind_region){.start = start, .size = SLOT_SIZE, .name = source->name};
    *source = (struct source){.lines = {{0, file_of(start), 1}, {1, file_of(start), 1000}}};
    snprintf(source->name, sizeof source->name, "at_%lx", start);
    if (with_rows) {
        region->rows = rows;
        region->row_count = ROWS;
    } else {
        region->eh_frame = source->frames = own_frames(start, &region->eh_frame_size);
    }
    if (has_lines(start)) {
        region->lines = source->lines;
        region->line_count = 2;
    }
}

struct worker {
    unsigned thread, random, live;
    struct jitunwind_publication *handles[SLOTS];
};

/* Publish up to MOST_AT_ONCE regions, to consumers that chance picks. */
static void publish_some(struct worker *worker)
{
    static const unsigned choices[] = {JITUNWIND_GDB, JITUNWIND_LIBGCC, JITUNWIND_GDB | JITUNWIND_LIBGCC,
                                       JITUNWIND_GDB | JITUNWIND_LIBGCC | JITUNWIND_LIBUNWIND};
    struct jitunwind_region regions[MOST_AT_ONCE + 1];
    struct source sources[MOST_AT_ONCE + 1];
    struct jitunwind_publication *handles[MOST_AT_ONCE + 1];
    unsigned places[MOST_AT_ONCE], count = 0, wanted = 1 + random_below(&worker->random, MOST_AT_ONCE);
    unsigned consumers = choices[random_below(&worker->random, 4)], from = random_below(&worker->random, SLOTS);
    for (unsigned i = 0; i < SLOTS && count < wanted; i++) {
        unsigned place = (from + i) % SLOTS;
        if (worker->handles[place])
            continue;
        describe(&regions[count], &sources[count], start_of(worker->thread, place), random_below(&worker->random, 2));
        atomic_store(&slots[worker->thread][place].consumers, consumers);
        atomic_store(&slots[worker->thread][place].state, CHANGES);
        places[count++] = place;
    }
    if (!count)
        return;
    if (random_below(&worker->random, 16) == 0) { /* all or none: the last one overlaps the first */
        regions[count] = regions[0];
        regions[count].start += SLOT_SIZE / 2;
        regions[count].size = 1;
        regions[count].row_count = 1;
        regions[count].line_count = 0;
        if (!regions[count].rows) {
            regions[count].eh_frame_size = 0;
            regions[count].row_count = 0;
        }
        CHECK(jitunwind_publish(regions, count + 1, consumers, handles) == EEXIST);
        CHECK(!is_found(regions[0].start) && !is_found(regions[count - 1].start));
    }
    CHECK(jitunwind_publish(regions, count, consumers, handles) == 0);
    for (unsigned i = 0; i < count; i++) {
        worker->handles[places[i]] = handles[i];
        atomic_store(&slots[worker->thread][places[i]].state, PRESENT);
        CHECK(is_found(regions[i].start) == !!(consumers & JITUNWIND_LIBGCC), "right after publishing");
        CHECK(sources[i].frames == regions[i].eh_frame);
        free(sources[i].frames);
    }
    CHECK(is_unwound(regions[0].start) == !!(consumers & JITUNWIND_LIBGCC));
    worker->live += count;
    unsigned before = atomic_fetch_add(&publishes, count);
    if (before / FORK_EVERY != (before + count) / FORK_EVERY)
        sem_post(&fork_now);
}

static void withdraw_some(struct worker *worker, unsigned wanted)
{
    struct jitunwind_publication *handles[SLOTS];
    unsigned places[SLOTS], count = 0, from = random_below(&worker->random, SLOTS);
    for (unsigned i = 0; i < SLOTS && count < wanted; i++) {
        unsigned place = (from + i) % SLOTS;
        if (!worker->handles[place])
            continue;
        atomic_store(&slots[worker->thread][place].state, CHANGES);
        handles[count] = worker->handles[place];
        worker->handles[place] = NULL;
        places[count++] = place;
    }
    jitunwind_withdraw(handles, count);
    for (unsigned i = 0; i < count; i++) {
        atomic_store(&slots[worker->thread][places[i]].state, ABSENT);
        CHECK(!is_found(start_of(worker->thread, places[i])), "right after withdrawing");
    }
    if (count)
        CHECK(!is_unwound(start_of(worker->thread, places[0])));
    worker->live -= count;
}

/* The worker publishes what the hooks tell of. */
static pthread_mutex_t round_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t round_done = PTHREAD_COND_INITIALIZER;
static _Atomic unsigned hooked, unhooked;

static void run_worker(void *unused)
{
    (void)unused;
    enum { MOST = 256 };
    static struct jitunwind_event events[MOST];
    static struct jitunwind_region regions[MOST];
    static struct source sources[MOST];
    static struct jitunwind_publication *handles[MOST];
    size_t count = jitunwind_take(events, MOST), came = 0;
    unsigned gone = 0;
    for (size_t i = 0; i < count; i++)
        if (events[i].kind == CODE_CAME) {
            describe(&regions[came], &sources[came], events[i].start, true);
            came++;
        }
    CHECK(jitunwind_publish(regions, came, JITUNWIND_GDB | JITUNWIND_LIBGCC, handles) == 0);
    for (size_t i = 0; i < count; i++)
        if (events[i].kind == CODE_GOES) {
            jitunwind_unmap(events[i].start, events[i].size);
            gone++;
        }
    CHECK(!jitunwind_lost());
    pthread_mutex_lock(&round_lock);
    atomic_fetch_add(&unhooked, gone);
    pthread_cond_broadcast(&round_done);
    pthread_mutex_unlock(&round_lock);
}

/* Code that comes and goes as a JIT's does, and is published by the worker meanwhile. */
static void use_hooks(void)
{
    unsigned char *pages[HOOKED_AT_ONCE];
    for (unsigned i = 0; i < HOOKED_AT_ONCE; i++) {
        pages[i] = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(pages[i] != MAP_FAILED);
        memcpy(pages[i], code, sizeof code);
        __builtin___clear_cache((char *)pages[i], (char *)pages[i] + sizeof code);
        CHECK(events_mprotect(pages[i], PAGE, PROT_READ | PROT_EXEC) == 0);
    }
    for (unsigned i = 0; i < HOOKED_AT_ONCE; i++) {
        pthread_mutex_lock(&round_lock);
        while (!jitunwind_knows((uintptr_t)pages[i]))
            pthread_cond_wait(&round_done, &round_lock);
        pthread_mutex_unlock(&round_lock);
        CHECK(is_unwound((uintptr_t)pages[i]));
        atomic_fetch_add(&hooked, 1);
        CHECK(events_munmap(pages[i], PAGE) == 0);
    }
}

static void work(unsigned thread, struct worker *worker)
{
    unsigned target = threads_each;
    for (unsigned done = 0; done < target;) {
        unsigned before = worker->live;
        if (random_below(&worker->random, SLOTS) >= worker->live) {
            publish_some(worker);
            done += worker->live - before;
        } else {
            withdraw_some(worker, 1 + random_below(&worker->random, MOST_AT_ONCE));
        }
        if (random_below(&worker->random, 300) == 0)
            use_hooks();
    }
    use_hooks();
    withdraw_some(worker, SLOTS);
    CHECK(worker->live == 0 && blocks[thread]);
}

static unsigned cycles;

static void *run(void *number)
{
    struct worker worker = {.thread = (unsigned)(uintptr_t)number, .random = (unsigned)(uintptr_t)number};
    for (unsigned i = 0; i < cycles; i++) {
        pthread_barrier_wait(&barrier);
        work(worker.thread, &worker);
        atomic_fetch_sub(&at_work, 1);
        sem_post(&fork_now);
        pthread_barrier_wait(&barrier);
        pthread_barrier_wait(&barrier); /* no end of a thread, which locks AddressSanitizer's heap, beside the fork */
    }
    return NULL;
}

/* What the child of a fork sees: read without a lock, and without memory from malloc. */
struct found {
    uint64_t start, size;
};
static struct found found[THREADS * SLOTS + 4096];
static size_t found_count;

static const Elf64_Shdr *section(const unsigned char *image, const char *name)
{
    const Elf64_Ehdr *header = (const Elf64_Ehdr *)image;
    const Elf64_Shdr *sections = (const Elf64_Shdr *)(image + header->e_shoff);
    const char *names = (const char *)image + sections[header->e_shstrndx].sh_offset;
    for (unsigned i = 1; i < header->e_shnum; i++)
        if (!strcmp(names + sections[i].sh_name, name))
            return &sections[i];
    CHECK(0, "no %s", name);
}

static uint32_t u32(const unsigned char *at)
{
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static uint64_t u64(const unsigned char *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

/* The next entry of .eh_frame is the FDE of just that region, perhaps behind a CIE; it points back to one. */
static const unsigned char *check_frames(const unsigned char *at, const unsigned char *section, uint64_t start)
{
    const unsigned char *frame = u32(at + 4) ? at : at + 4 + u32(at), *cie = frame + 4 - u32(frame + 4);
    CHECK(section <= cie && cie < frame && u32(cie + 4) == 0, "%#lx", start);
    CHECK(u64(frame + 8) == start && u64(frame + 16) > 0, "%#lx for %#lx", u64(frame + 8), start);
    return frame + 4 + u32(frame);
}

static void check_image(const unsigned char *image, uint64_t size)
{
    const Elf64_Ehdr *header = (const Elf64_Ehdr *)image;
    const Elf64_Shdr *sections = (const Elf64_Shdr *)(image + header->e_shoff);
    CHECK(size > sizeof *header && !memcmp(header->e_ident, ELFMAG, SELFMAG));
    CHECK(header->e_shoff + header->e_shnum * sizeof *sections == size && header->e_shstrndx < header->e_shnum);
    for (unsigned i = 1; i < header->e_shnum; i++)
        if (sections[i].sh_type != SHT_NOBITS)
            CHECK(sections[i].sh_offset + sections[i].sh_size <= header->e_shoff, "section %u", i);
    const Elf64_Shdr *symtab = section(image, ".symtab"), *strtab = section(image, ".strtab");
    const Elf64_Shdr *info = section(image, ".debug_info"), *line = section(image, ".debug_line");
    const Elf64_Shdr *eh_frame = section(image, ".eh_frame"), *str = section(image, ".debug_str");
    const Elf64_Shdr *line_str = section(image, ".debug_line_str");
    const unsigned char *programs = image + line->sh_offset;
    const Elf64_Sym *symbols = (const Elf64_Sym *)(image + symtab->sh_offset);
    const unsigned char *unit_at = image + info->sh_offset, *frame_at = image + eh_frame->sh_offset;
    size_t count = symtab->sh_size / sizeof *symbols;
    CHECK(2 <= count && count <= 1 + MOST_REGIONS);
    for (size_t i = 1; i < count; i++) {
        const Elf64_Shdr *text = &sections[symbols[i].st_shndx];
        uint64_t start = symbols[i].st_value;
        CHECK(symbols[i].st_name < strtab->sh_size && text->sh_type == SHT_NOBITS);
        const char *name = (const char *)image + strtab->sh_offset + symbols[i].st_name;
        CHECK(text->sh_addr <= start && start + symbols[i].st_size <= text->sh_addr + text->sh_size);
        CHECK(!strncmp(name, "at_", 3) && strtoull(name + 3, NULL, 16) == start, "%s at %#lx", name, start);
        CHECK(found_count < sizeof found / sizeof *found);
        found[found_count++] = (struct found){start, symbols[i].st_size};
        frame_at = check_frames(frame_at, image + eh_frame->sh_offset, start);
        if (has_lines(start)) {
            uint32_t program_at = u32(unit_at + STMT_LIST_AT), file = u32(unit_at + FILE_NAME_AT);
            CHECK(u32(unit_at) + 4 == UNIT_SIZE && u64(unit_at + LOW_PC_AT) == start, "%#lx", start);
            CHECK(!strcmp((const char *)image + str->sh_offset + u32(unit_at + NAME_AT), name), "%s", name);
            CHECK(!strcmp((const char *)image + str->sh_offset + file, file_of(start)), "%s", name);
            CHECK(program_at + ADDRESS_AT + sizeof start <= line->sh_size && file < line_str->sh_size);
            CHECK(u32(programs + program_at + FILE_AT) == file, "%s", name);
            CHECK(u64(programs + program_at + ADDRESS_AT) == start, "%s", name);
            unit_at += UNIT_SIZE;
        }
    }
    CHECK(frame_at == image + eh_frame->sh_offset + eh_frame->sh_size);
    CHECK(unit_at == image + info->sh_offset + info->sh_size);
}

static int by_start(const void *one, const void *other)
{
    uint64_t a = ((const struct found *)one)->start, b = ((const struct found *)other)->start;
    return a < b ? -1 : a > b;
}

/* The whole list: each file is valid, each region in one of them, none that should not be there. */
static void check_list(void)
{
    const struct jit_code_entry *before = NULL;
    struct jitunwind_statistics statistics;
    unsigned files = 0;
    found_count = 0;
    CHECK(__jit_debug_descriptor.action == JIT_NO_ACTION && !__jit_debug_descriptor.relevant);
    for (const struct jit_code_entry *entry = __jit_debug_descriptor.first; entry; entry = entry->next) {
        CHECK(entry->prev == before && ++files < 1000);
        check_image(entry->symbol_file, entry->symbol_file_size);
        before = entry;
    }
    qsort(found, found_count, sizeof *found, by_start);
    for (size_t i = 1; i < found_count; i++)
        CHECK(found[i - 1].start + found[i - 1].size <= found[i].start, "%#lx twice", found[i].start);
    for (unsigned thread = 0; thread < THREADS; thread++)
        for (unsigned slot = 0; slot < SLOTS; slot++) {
            struct found key = {start_of(thread, slot), 0};
            int state = atomic_load(&slots[thread][slot].state);
            bool there = bsearch(&key, found, found_count, sizeof *found, by_start);
            bool wanted = state == PRESENT && atomic_load(&slots[thread][slot].consumers) & JITUNWIND_GDB;
            CHECK(state == CHANGES || there == wanted, "thread %u, slot %u: %d", thread, slot, state);
        }
    jitunwind_statistics(&statistics);
    CHECK(statistics.files == files && statistics.regions >= found_count);
}

static void look(void)
{
    check_list();
}

/* The child goes on: it publishes, withdraws what its parent has published, and has a worker of its own. */
static void go_on(void)
{
    struct worker worker = {.random = (unsigned)getpid()};
    check_list();
    blocks[0] = mmap(NULL, SLOTS * SLOT_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (unsigned i = 0; i < SLOTS; i++) {
        memcpy((void *)start_of(0, i), code, sizeof code);
        atomic_store(&slots[0][i].state, ABSENT);
    }
    make_executable(blocks[0]);
    publish_some(&worker);
    withdraw_some(&worker, SLOTS);
#if !defined(__SANITIZE_THREAD__) && !defined(EMULATED) /* neither lets a child start threads */
    jitunwind_resume(0);
    use_hooks();
    jitunwind_pause();
#endif
}

static void fork_once(void (*function)(void), bool paused)
{
    int status;
    if (paused)
        jitunwind_pause();
    pid_t child = fork();
    if (!child) {
        alarm(120);
#ifndef EMULATED /* in qemu 7.2 a child of a process with threads cannot start one */
        if (paused)
            jitunwind_resume(1);
#endif
        function();
        _exit(0);
    }
    if (paused)
        jitunwind_resume(0);
    CHECK(child > 0, "no fork: %s", strerror(errno));
    CHECK(waitpid(child, &status, 0) == child, "%s", strerror(errno));
    CHECK(status == 0, "a child ended with %#x", status);
    forks++;
}

/* Bytes that the program has from malloc; 0 where nobody counts them. */
__attribute__((weak)) size_t __sanitizer_get_current_allocated_bytes(void);

static size_t allocated(void)
{
    return __sanitizer_get_current_allocated_bytes ? __sanitizer_get_current_allocated_bytes() : mallinfo2().uordblks;
}

static void *libunwind;

static void wait_for_worker(void)
{
    pthread_mutex_lock(&round_lock);
    while (atomic_load(&unhooked) != atomic_load(&hooked))
        pthread_cond_wait(&round_done, &round_lock);
    pthread_mutex_unlock(&round_lock);
}

static void one_cycle(unsigned number)
{
    static uint64_t first_held, first_allocated;
    struct jitunwind_statistics statistics;
    atomic_store(&at_work, THREADS);
    jitunwind_resume(0);
    pthread_barrier_wait(&barrier);
    while (atomic_load(&at_work)) {
        sem_wait(&fork_now);
        fork_once(look, forks & 1);
    }
    pthread_barrier_wait(&barrier);
    wait_for_worker();
    jitunwind_pause();
    CHECK(!__jit_debug_descriptor.first);
    jitunwind_statistics(&statistics);
    CHECK(!statistics.regions && !statistics.files);
    if (number == 0) {
        first_held = statistics.bytes;
        first_allocated = allocated();
    }
    dprintf(STDOUT_FILENO, "cycle %u: %u publishes, %u hooked, %u forks, %lu bytes held, %zu allocated\n", number,
            atomic_load(&publishes), atomic_load(&hooked), forks, statistics.bytes, allocated());
    CHECK(statistics.bytes == first_held, "was %lu", first_held);
    CHECK(libunwind || allocated() <= first_allocated, "was %lu", first_allocated);
    fork_once(go_on, false);
    pthread_barrier_wait(&barrier);
}

/* Once as many regions as there can be at one time: what is kept for good is there from then on. */
static void warm_up(void)
{
    enum { MOST = THREADS * (SLOTS + HOOKED_AT_ONCE) };
    static struct jitunwind_region regions[MOST];
    static struct jitunwind_publication *handles[MOST];
    for (unsigned i = 0; i < MOST; i++)
        regions[i] = (struct jitunwind_region){.start = 1 + i, .size = 1, .name = "", .rows = rows, .row_count = 1};
    CHECK(jitunwind_publish(regions, MOST, JITUNWIND_GDB | JITUNWIND_LIBGCC, handles) == 0);
    jitunwind_withdraw(handles, MOST);
}

int main(int count, char **arguments)
{
    pthread_t threads[THREADS];
    CHECK(count == 3 || (count == 4 && (libunwind = dlopen(arguments[3], RTLD_NOW))));
    cycles = (unsigned)atoi(arguments[2]);
    threads_each = (unsigned)atoi(arguments[1]) / cycles / THREADS + 1;
    sem_init(&fork_now, 0, 0);
    pthread_barrier_init(&barrier, NULL, THREADS + 1);
    for (unsigned i = 0; i < THREADS; i++) {
        blocks[i] = mmap(NULL, SLOTS * SLOT_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        for (unsigned j = 0; j < SLOTS; j++)
            memcpy((void *)start_of(i, j), code, sizeof code);
        make_executable(blocks[i]);
    }
    warm_up();
    jitunwind_set_worker(run_worker, NULL);
    for (uintptr_t i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, run, (void *)i);
    jitunwind_pause();
    for (unsigned i = 0; i < cycles; i++)
        one_cycle(i);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    return 0;
}
