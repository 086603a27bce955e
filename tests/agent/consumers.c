/* What consumers.c promises to any consumer, tried with two of our own in the place of two real ones: one that writes to a
   file, so to speak, and cannot take back; and one that joins late. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <string.h>

#include "check.h"
#include "consumer.h"

#define symbol_files_consumer writing_consumer
#define llvm_consumer late_consumer
extern const struct consumer writing_consumer, late_consumer;
#include "../../src/jitunwind/agent/consumers.c"

enum { REGIONS = 4, RSP = 7, RIP = 16 };
static const struct jitunwind_rule rule = {RIP, JITUNWIND_SAVED_AT, -8};
static const struct jitunwind_row row = {0, RSP, 1, 8, &rule};
static const struct jitunwind_line line = {0, "f.py", 7};
static unsigned char code[REGIONS][16];

static unsigned written, flushes, fails_at, flush_fails; /* 0: never */

static bool always(void)
{
    return true;
}

/* All that a record of a jitdump file has: code, name, lines, unwind table. */
static int write_record(struct jitunwind_publication *publication, const struct jitunwind_region *region)
{
    if (fails_at && written + 1 == fails_at)
        return ENOSPC;
    written++;
    CHECK(region && region->name && region->line_count == 1 && region->lines->line == 7);
    CHECK(publication->start == region->start && publication->size == region->size);
    CHECK(!memcmp((void *)publication->start, code[(region->start - (uintptr_t)code) / 16], 16));
    unsigned char entries[128] = {0}, *end = entries;
    if (publication->cie) {
        CHECK(publication->cie->size + publication->frames_size < sizeof entries);
        memcpy(end, publication->cie->bytes, publication->cie->size);
        end += publication->cie->size;
    }
    end = cie_put_frames(end, publication->frames, publication->frames_size, publication->cie ? entries : NULL);
    uint32_t length, back;
    memcpy(&length, entries, sizeof length);
    memcpy(&back, entries + 4 + length + 4, sizeof back);
    CHECK(back == 4 + length + 4, "an FDE points to the CIE at the begin");
    return 0;
}

static int flush(void)
{
    flushes++;
    return flush_fails ? EIO : 0;
}

const struct consumer writing_consumer = {
    .name = "file", .bit = JITUNWIND_GDB, .find = always, .add = write_record, .flush = flush};

static bool is_there;
static unsigned knows;

static bool is_loaded(void)
{
    return is_there;
}

static int note(struct jitunwind_publication *publication, const struct jitunwind_region *region)
{
    (void)publication, (void)region;
    knows++;
    return 0;
}

static bool forget(struct jitunwind_publication *publication)
{
    (void)publication;
    knows--;
    return false;
}

const struct consumer late_consumer = {.name = "late",
                                       .bit = JITUNWIND_LIBUNWIND,
                                       .joins_late = true,
                                       .find = is_loaded,
                                       .add = note,
                                       .remove = forget};

static struct jitunwind_region regions[REGIONS];
static struct jitunwind_publication *handles[REGIONS];

static uint64_t published_now(void)
{
    struct jitunwind_statistics statistics;
    jitunwind_statistics(&statistics);
    return statistics.regions;
}

/* Nothing is taken back from one that cannot; it is told of each once, and flushed once a call. */
static void one_that_cannot_take_back(void)
{
    CHECK(!jitunwind_publish(regions, REGIONS, JITUNWIND_GDB | JITUNWIND_LIBGCC, handles));
    CHECK(written == REGIONS && flushes == 1);
    jitunwind_withdraw(handles, REGIONS);
    CHECK(written == REGIONS && flushes == 2 && published_now() == 0);
}

/* All or none, whoever fails, and whenever. */
static void one_that_fails(void)
{
    written = 0;
    for (fails_at = 1; fails_at <= REGIONS; fails_at++, written = 0)
        CHECK(jitunwind_publish(regions, REGIONS, JITUNWIND_GDB | JITUNWIND_LIBGCC, handles) == ENOSPC &&
              published_now() == 0);
    fails_at = 0;
    flush_fails = 1;
    CHECK(jitunwind_publish(regions, REGIONS, JITUNWIND_GDB, handles) == EIO && published_now() == 0);
    flush_fails = 0;
}

/* It is told of what was published before for its bit, once it is there and an object has been loaded since. */
static void one_that_joins_late(void)
{
    unsigned bits[] = {JITUNWIND_LIBUNWIND, JITUNWIND_LIBGCC, JITUNWIND_LIBGCC | JITUNWIND_LIBUNWIND};
    for (unsigned i = 0; i < 3; i++)
        CHECK(!jitunwind_publish(regions + i, 1, bits[i], handles + i));
    CHECK(knows == 0);
    is_there = true;
    CHECK(dlopen("libresolv.so.2", RTLD_LAZY) && !jitunwind_publish(regions + 3, 1, JITUNWIND_LIBUNWIND, handles + 3));
    CHECK(knows == 3);
    jitunwind_withdraw(handles, 2);
    CHECK(knows == 2);
    jitunwind_withdraw(handles + 2, 2);
    CHECK(knows == 0 && published_now() == 0);
}

int main(void)
{
    for (unsigned i = 0; i < REGIONS; i++) {
        memset(code[i], 0x90 + (int)i, sizeof code[i]);
        regions[i] = (struct jitunwind_region){.start = (uintptr_t)code[i],
                                               .size = sizeof code[i],
                                               .name = "f",
                                               .rows = &row,
                                               .row_count = 1,
                                               .lines = &line,
                                               .line_count = 1};
    }
    one_that_cannot_take_back();
    one_that_fails();
    one_that_joins_late();
    CHECK(jitunwind_publish(regions, 1, 1u << 9, handles) == EINVAL);
    return 0;
}
