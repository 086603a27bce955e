/* Publishing where memory runs out, at each allocation in turn: all or none, and whole again later.

   Linked with --wrap for malloc, calloc and realloc: they fail from the allocation on that a case picks, once or for
   the rest of the call. */

#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "agent.h"
#include "check.h"

enum { REGIONS = 3 * MOST_REGIONS / 2, SOME = 5, RSP = 7, RIP = 16 };

void *__real_malloc(size_t);
void *__real_calloc(size_t, size_t);
void *__real_realloc(void *, size_t);

static unsigned left;    /* allocations until one fails; 0: none does */
static bool for_good;    /* those behind it fail, too */
static bool has_failed;

static bool fails(void)
{
    bool now = left ? --left == 0 : has_failed && for_good;
    has_failed |= now;
    if (now)
        errno = ENOMEM;
    return now;
}

void *__wrap_malloc(size_t size)
{
    return fails() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size)
{
    return fails() ? NULL : __real_calloc(count, size);
}

void *__wrap_realloc(void *old, size_t size)
{
    return fails() ? NULL : __real_realloc(old, size);
}

static const struct jitunwind_rule rule = {RIP, JITUNWIND_SAVED_AT, -8};
static const struct jitunwind_row row = {0, RSP, 1, 8, &rule};
static struct jitunwind_region regions[REGIONS];
static struct jitunwind_publication *handles[REGIONS];

/* The regions that a debugger sees. */
static size_t seen(void)
{
    size_t count = 0;
    const struct jit_code_entry *before = NULL;
    for (const struct jit_code_entry *entry = __jit_debug_descriptor.first; entry; entry = entry->next) {
        const unsigned char *image = entry->symbol_file;
        const Elf64_Ehdr *header = (const Elf64_Ehdr *)image;
        const Elf64_Shdr *section = (const Elf64_Shdr *)(image + header->e_shoff);
        CHECK(entry->prev == before);
        for (unsigned i = 0; i < header->e_shnum; i++)
            if (section[i].sh_type == SHT_NOBITS) {
                unsigned index = (unsigned)(section[i].sh_addr / 16 - 1);
                CHECK(index < REGIONS && section[i].sh_size % 16 == 0);
                count += section[i].sh_size / 16; /* regions without a gap between them */
            }
        before = entry;
    }
    return count;
}

static struct jitunwind_statistics statistics(void)
{
    struct jitunwind_statistics now;
    jitunwind_statistics(&now);
    return now;
}

static void from(unsigned allocation, bool rest)
{
    left = allocation;
    for_good = rest;
    has_failed = false;
}

static void publish(unsigned first, unsigned count)
{
    from(0, false);
    CHECK(jitunwind_publish(regions + first, count, JITUNWIND_GDB | JITUNWIND_LIBGCC, handles + first) == 0);
}

/* On top of `there` regions: SOME more, without memory at first. */
static void publish_in_need(unsigned there, bool rest)
{
    publish(0, there);
    struct jitunwind_statistics before = statistics();
    for (unsigned allocation = 1;; allocation++) {
        from(allocation, rest);
        int error =
            jitunwind_publish(regions + there, SOME, JITUNWIND_GDB | JITUNWIND_LIBGCC, handles + there);
        bool failed = has_failed;
        from(0, false);
        CHECK(error == (failed ? ENOMEM : 0), "%d, allocation %u", error, allocation);
        if (!failed)
            break;
        CHECK(statistics().regions == before.regions, "allocation %u", allocation);
        CHECK(seen() <= there, "more than was published");
        publish(REGIONS - 1, 1); /* the next try, with memory */
        CHECK(seen() == there + 1, "%zu of %u, allocation %u", seen(), there + 1, allocation);
        jitunwind_withdraw(handles + REGIONS - 1, 1);
    }
    CHECK(seen() == there + SOME);
    jitunwind_withdraw(handles, there + SOME);
    CHECK(seen() == 0 && statistics().regions == 0 && statistics().files == 0);
}

/* Withdrawing cannot fail: what is left may go unseen, but only until the next call. */
static void withdraw_in_need(unsigned there, bool rest)
{
    for (unsigned allocation = 1, failed = 1; failed; allocation++) {
        publish(0, there);
        from(allocation, rest);
        jitunwind_withdraw(handles, SOME);
        failed = has_failed;
        from(0, false);
        CHECK(seen() <= there - SOME && statistics().regions == there - SOME);
        publish(0, 1);
        CHECK(seen() == there - SOME + 1, "%zu of %u", seen(), there - SOME + 1);
        jitunwind_withdraw(handles, 1);
        jitunwind_withdraw(handles + SOME, there - SOME);
        CHECK(seen() == 0 && statistics().regions == 0 && statistics().files == 0);
    }
}

int main(void)
{
    static char names[REGIONS][16];
    static struct jitunwind_line lines[REGIONS];
    for (unsigned i = 0; i < REGIONS; i++) {
        snprintf(names[i], sizeof names[i], "at_%u.c", i);
        lines[i] = (struct jitunwind_line){0, names[i], i};
        regions[i] = (struct jitunwind_region){
            .start = 16 * (i + 1),
            .size = 16,
            .name = names[i],
            .rows = &row,
            .row_count = 1,
            .lines = &lines[i],
            .line_count = i % 2,
        };
    }
    publish(0, REGIONS);
    jitunwind_withdraw(handles, REGIONS);
    uint64_t bytes = statistics().bytes;
    static const unsigned sizes[] = {0, 3, MOST_REGIONS - 2, MOST_REGIONS, MOST_REGIONS + 10};
    for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int rest = 0; rest < 2; rest++) {
            publish_in_need(sizes[i], rest);
            if (sizes[i] > SOME)
                withdraw_in_need(sizes[i], rest);
        }
    CHECK(statistics().bytes == bytes, "%lu, not %lu", statistics().bytes, bytes);
    return 0;
}
