/* What is published: the set of publications, under one lock. Whom it is told to, consumers.c knows. */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "consumer.h"
#include "unwinding.h"

enum { TERMINATOR_SIZE = 4 };

static struct jitunwind_publication **published; /* by rising address */
static size_t published_count, published_room;
static uint64_t bytes_held; /* for the publications themselves */

/* The first published region that ends behind `address`. */
static size_t position(uint64_t address)
{
    size_t low = 0, high = published_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (published[middle]->start + published[middle]->size <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static int insert(struct jitunwind_publication *publication)
{
    size_t at = position(publication->start);
    if (at < published_count && published[at]->start < publication->start + publication->size)
        return EEXIST;
    if (published_count == published_room) {
        size_t room = published_room ? 2 * published_room : 8;
        void *larger = realloc(published, room * sizeof *published);
        if (!larger)
            return ENOMEM;
        published = larger;
        published_room = room;
    }
    memmove(published + at + 1, published + at, (published_count - at) * sizeof *published);
    published[at] = publication;
    published_count++;
    return 0;
}

static void take_out(struct jitunwind_publication *publication)
{
    size_t at = position(publication->start);
    published_count--;
    memmove(published + at, published + at + 1, (published_count - at) * sizeof *published);
}

static bool sensible(const struct jitunwind_region *region)
{
    if (!region->name || !region->size || region->start + region->size < region->start)
        return false;
    size_t entry = region->entry_size;
    if (entry && (!region->entry_name || entry >= region->size || entry > UINT32_MAX))
        return false;
    if (!lines_sensible(region))
        return false;
    size_t size = region->eh_frame_size, of_perf = region->perf_eh_frame_size;
    if (!region->row_count && (size >= UINT32_MAX || !frames_sensible(region, region->eh_frame, size)))
        return false;
    return of_perf < UINT32_MAX && frames_sensible(region, region->perf_eh_frame, of_perf);
}

/* A publication with these frames, which begin with `cie`, if that is not NULL; NULL without memory. */
static struct jitunwind_publication *with_frames(const unsigned char *frames, size_t size, const struct cie *cie)
{
    size_t of_cie = cie ? cie->size : 0, rest = size - of_cie;
    struct jitunwind_publication *new = calloc(1, sizeof *new + rest + TERMINATOR_SIZE);
    if (!new)
        return NULL;
    if (cie && !cie_reaches(cie, new->frames, rest)) {
        free(new);
        return with_frames(frames, size, NULL);
    }
    cie_put_frames(new->frames, frames + of_cie, rest, cie ? cie->bytes : NULL);
    new->cie = cie;
    new->frames_size = (uint32_t)rest;
    return new;
}

/* A publication that is not in the set yet; NULL with errno. */
static struct jitunwind_publication *made_of(const struct jitunwind_region *region)
{
    size_t size = region->eh_frame_size;
    unsigned char *of_rows = NULL;
    if (region->row_count && !(of_rows = cfi_of_rows(region, &size)))
        return NULL;
    const unsigned char *frames = of_rows ? of_rows : region->eh_frame;
    struct jitunwind_publication *new = with_frames(frames, size, cie_of(frames, size));
    free(of_rows);
    if (!new) {
        errno = ENOMEM;
        return NULL;
    }
    new->start = region->start;
    new->size = region->size;
    return new;
}

/* A publication in the set, which no consumer knows yet; NULL with `error`. */
static struct jitunwind_publication *inserted(const struct jitunwind_region *region, unsigned bits, int *error)
{
    struct jitunwind_publication *publication = made_of(region);
    if (!publication) {
        *error = errno;
        return NULL;
    }
    publication->consumers = (uint8_t)bits;
    *error = insert(publication);
    if (*error) {
        free(publication);
        return NULL;
    }
    bytes_held += held(publication);
    return publication;
}

static void withdraw(struct jitunwind_publication **handles, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (handles[i]) {
            take_out(handles[i]);
            bytes_held -= held(handles[i]);
        }
    consumers_remove(handles, count);
}

int store_check(const struct jitunwind_region *regions, size_t count, unsigned bits)
{
    for (size_t i = 0; i < count; i++)
        if (!sensible(&regions[i]))
            return EINVAL;
    return consumers_check(bits);
}

int store_publish(const struct jitunwind_region *regions, size_t count, unsigned bits,
                  struct jitunwind_publication **handles)
{
    int error = 0;
    size_t done = 0;
    consumers_join(bits, published, published_count);
    while (!error && done < count && (handles[done] = inserted(&regions[done], bits, &error))) {
        error = consumers_add(handles[done], &regions[done]);
        done++;
    }
    if (!error)
        error = consumers_flush();
    if (error)
        withdraw(handles, done);
    return error;
}

EXPORTED int jitunwind_publish(const struct jitunwind_region *regions, size_t count, unsigned bits,
                               struct jitunwind_publication **handles)
{
    int state, error = store_check(regions, count, bits);
    if (error)
        return error;
    debugger_lock(&state);
    error = store_publish(regions, count, bits, handles);
    debugger_unlock(state);
    return error;
}

int jitunwind_tell(const struct jitunwind_region *regions, size_t count, unsigned bits)
{
    int state, error = store_check(regions, count, bits);
    if (error)
        return error;
    debugger_lock(&state);
    for (size_t i = 0; i < count && !error; i++) {
        size_t at = position(regions[i].start);
        if (at < published_count && published[at]->start == regions[i].start && published[at]->size == regions[i].size)
            error = consumers_add_more(published[at], &regions[i], bits);
    }
    int failed = consumers_flush();
    debugger_unlock(state);
    return error ? error : failed;
}

EXPORTED void jitunwind_withdraw(struct jitunwind_publication **handles, size_t count)
{
    int state;
    debugger_lock(&state);
    withdraw(handles, count);
    debugger_unlock(state);
}

/* Withdraw all regions that lie in [start, start + size) in part or in whole, whoever has published them. */
void jitunwind_withdraw_range(uint64_t start, uint64_t size)
{
    struct jitunwind_publication *handles[16];
    size_t count;
    int state;
    debugger_lock(&state);
    do {
        size_t at = position(start);
        for (count = 0; count < 16 && at < published_count && published[at]->start < start + size; at++)
            handles[count++] = published[at];
        withdraw(handles, count);
    } while (count);
    debugger_unlock(state);
}

/* Whether a region that is published holds the address. */
int jitunwind_knows(uint64_t address)
{
    int state;
    debugger_lock(&state);
    size_t at = position(address);
    int found = at < published_count && published[at]->start <= address;
    debugger_unlock(state);
    return found;
}

EXPORTED const char *jitunwind_problem(unsigned consumer)
{
    int state;
    debugger_lock(&state);
    const char *problem = consumers_problem(consumer);
    debugger_unlock(state);
    return problem;
}

EXPORTED void jitunwind_statistics(struct jitunwind_statistics *statistics)
{
    int state;
    debugger_lock(&state);
    *statistics = (struct jitunwind_statistics){.regions = published_count,
                                                .bytes = bytes_held + held(published)};
    for (const struct cie *cie = cie_first(); cie; cie = cie->next)
        statistics->bytes += held(cie);
    consumers_count(statistics);
    debugger_unlock(state);
}
