/* What is published: publish, withdraw, and the symbol files that hold it.

   Regions share symbol files of at most MOST_REGIONS, so that a debugger has few to read, and a change costs little:
   the file it concerns is built anew and announced in the place of the old one. */

#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "agent.h"

enum { TERMINATOR_SIZE = 4 };

static struct jitunwind_publication **published; /* by rising address */
static size_t published_count, published_room;
static struct symbol_file *files;
static struct symbol_file *filling; /* that gets the next region */
static uint64_t bytes_held;
static bool libunwind_known, llvm_known;

/* What malloc gave for a block, and its own word. */
static size_t held(const void *block)
{
    return block ? malloc_usable_size((void *)block) + sizeof(size_t) : 0;
}

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

/* A file with room for another region: the one that was filled last, then one that has lost half of its own or
   more, then a new one. NULL without memory. */
static struct symbol_file *file_with_room(void)
{
    if (filling && filling->count < MOST_REGIONS)
        return filling;
    filling = NULL;
    for (struct symbol_file *file = files; file; file = file->next)
        if (file->count <= MOST_REGIONS / 2 && (!filling || file->count < filling->count))
            filling = file;
    if (!filling && (filling = calloc(1, sizeof *filling))) {
        filling->next = files;
        files = filling;
        bytes_held += held(filling);
    }
    return filling;
}

static int add_to_file(struct jitunwind_publication *publication)
{
    struct symbol_file *file = file_with_room();
    if (!file)
        return ENOMEM;
    if (file->count == file->room) {
        unsigned room = file->room ? 2 * file->room : 8;
        size_t before = held(file->regions);
        void *larger = realloc(file->regions, room * sizeof *file->regions);
        if (!larger)
            return ENOMEM;
        bytes_held += held(larger) - before;
        file->regions = larger;
        file->room = room;
    }
    unsigned at = file->count++;
    for (; at && file->regions[at - 1]->start > publication->start; at--)
        file->regions[at] = file->regions[at - 1];
    file->regions[at] = publication;
    file->changed = true;
    publication->file = file;
    return 0;
}

static void take_from_file(struct jitunwind_publication *publication)
{
    struct symbol_file *file = publication->file;
    unsigned at = 0;
    while (file->regions[at] != publication)
        at++;
    for (file->count--; at < file->count; at++)
        file->regions[at] = file->regions[at + 1];
    file->changed = true;
    publication->file = NULL;
}

/* Have debuggers see the file as it is now. Without memory for that they see nothing of it until the next try. */
static int announce(struct symbol_file *file)
{
    struct jit_code_entry *old = &file->entries[file->current], *new = &file->entries[!file->current];
    unsigned char *image = NULL, *old_image = (unsigned char *)old->symbol_file;
    size_t size = 0;
    if (file->count)
        image = image_of(file->regions, file->count, old_image, &size);
    new->symbol_file = image;
    new->symbol_file_size = size;
    debugger_replace(file->listed ? old : NULL, image ? new : NULL);
    file->listed = image != NULL;
    if (!image && file->count)
        return ENOMEM; /* what it says of them is in the old image still */
    bytes_held += held(image) - held(old_image);
    old->symbol_file = NULL;
    file->current = !file->current;
    file->changed = false;
    free(old_image);
    return 0;
}

/* Announce all changed files, and let go of empty ones. */
static int announce_changes(void)
{
    int error = 0;
    for (struct symbol_file **link = &files; *link;) {
        struct symbol_file *file = *link;
        if (file->changed && announce(file))
            error = ENOMEM;
        if (file->count) {
            link = &file->next;
            continue;
        }
        *link = file->next;
        if (filling == file)
            filling = NULL;
        bytes_held -= held(file) + held(file->regions);
        free(file->regions);
        free(file);
    }
    return error;
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
    return region->row_count || (region->eh_frame_size < UINT32_MAX && frames_sensible(region));
}

static size_t held_for_llvm(const struct jitunwind_publication *publication)
{
    return publication->llvm != publication->frames ? held(publication->llvm) : 0;
}

/* Release what unwinders were given, and the publication itself. */
static void release(struct jitunwind_publication *publication)
{
    bytes_held -= held(publication) + held(publication->dynamic);
    if (publication->frames_size && publication->consumers & JITUNWIND_LIBGCC)
        libgcc_deregister(publication->frames);
    if (publication->llvm) {
        bytes_held -= held_for_llvm(publication);
        llvm_deregister(publication);
    }
    if (publication->dynamic)
        libunwind_cancel(publication);
    else
        free(publication);
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

/* A publication that nobody knows yet; NULL with errno. */
static struct jitunwind_publication *made_of(const struct jitunwind_region *region)
{
    size_t size = region->eh_frame_size;
    unsigned char *of_rows = NULL;
    if (region->row_count && !(of_rows = frames_of(region, &size)))
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
    new->given = region;
    new->is_new = true;
    return new;
}

/* libunwind counts from the start of a region in 31 bits. */
static bool is_for_libunwind(const struct jitunwind_publication *publication)
{
    return publication->frames_size && publication->consumers & JITUNWIND_LIBUNWIND && publication->size <= INT32_MAX;
}

static void tell_llvm(struct jitunwind_publication *publication)
{
    if (!llvm_known || !publication->frames_size || !(publication->consumers & JITUNWIND_LIBUNWIND))
        return;
    llvm_register(publication);
    bytes_held += held_for_llvm(publication);
}

/* Have unwinders know the region. */
static int register_frames(struct jitunwind_publication *publication)
{
    if (is_for_libunwind(publication) && libunwind_known) {
        publication->dynamic = libunwind_register(publication);
        if (!publication->dynamic) {
            publication->consumers &= (uint8_t)~JITUNWIND_LIBGCC; /* which was not told */
            return ENOMEM;
        }
    }
    if (publication->frames_size && publication->consumers & JITUNWIND_LIBGCC)
        libgcc_register(publication->frames, publication->frames_size);
    tell_llvm(publication);
    return 0;
}

/* A libunwind may have been loaded since: then it is told what others were told before. */
static void catch_up_with_libunwind(void)
{
    if (libunwind_known || !libunwind_find())
        return;
    libunwind_known = true;
    for (size_t i = 0; i < published_count; i++) {
        struct jitunwind_publication *each = published[i];
        if (is_for_libunwind(each) && !each->dynamic && (each->dynamic = libunwind_register(each)))
            bytes_held += held(each->dynamic);
    }
}

static void catch_up_with_llvm(void)
{
    if (llvm_known || !llvm_find())
        return;
    llvm_known = true;
    for (size_t i = 0; i < published_count; i++)
        tell_llvm(published[i]);
}

static struct jitunwind_publication *publish_one(const struct jitunwind_region *region, unsigned consumers, int *error)
{
    struct jitunwind_publication *publication = made_of(region);
    if (!publication) {
        *error = errno;
        return NULL;
    }
    publication->consumers = (uint8_t)consumers;
    *error = insert(publication);
    if (*error) {
        free(publication);
        return NULL;
    }
    *error = register_frames(publication);
    if (!*error && consumers & JITUNWIND_GDB)
        *error = add_to_file(publication);
    bytes_held += held(publication) + held(publication->dynamic);
    if (*error) {
        take_out(publication);
        release(publication);
        return NULL;
    }
    return publication;
}

static void withdraw(struct jitunwind_publication **handles, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (!handles[i])
            continue;
        take_out(handles[i]);
        if (handles[i]->file)
            take_from_file(handles[i]);
    }
    announce_changes();
    for (size_t i = 0; i < count; i++)
        if (handles[i])
            release(handles[i]);
}

int store_check(const struct jitunwind_region *regions, size_t count, unsigned consumers)
{
    if (consumers & ~(JITUNWIND_GDB | JITUNWIND_LIBGCC | JITUNWIND_LIBUNWIND))
        return EINVAL;
    for (size_t i = 0; i < count; i++)
        if (!sensible(&regions[i]))
            return EINVAL;
    if ((consumers & JITUNWIND_GDB && !debugger_find()) || (consumers & JITUNWIND_LIBGCC && !libgcc_find()))
        return ENOTSUP;
    return 0;
}

int store_publish(const struct jitunwind_region *regions, size_t count, unsigned consumers,
                  struct jitunwind_publication **handles)
{
    int error = 0;
    size_t done = 0;
    if (consumers & JITUNWIND_LIBUNWIND && libunwind_loaded()) {
        catch_up_with_libunwind();
        catch_up_with_llvm();
    }
    while (done < count && (handles[done] = publish_one(&regions[done], consumers, &error)))
        done++;
    if (!error)
        error = announce_changes();
    if (error)
        withdraw(handles, done);
    return error;
}

EXPORTED int jitunwind_publish(const struct jitunwind_region *regions, size_t count, unsigned consumers,
                               struct jitunwind_publication **handles)
{
    int state, error = store_check(regions, count, consumers);
    if (error)
        return error;
    debugger_lock(&state);
    error = store_publish(regions, count, consumers, handles);
    debugger_unlock(state);
    return error;
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

EXPORTED void jitunwind_statistics(struct jitunwind_statistics *statistics)
{
    int state;
    debugger_lock(&state);
    *statistics = (struct jitunwind_statistics){.regions = published_count,
                                                .bytes = bytes_held + held(published)};
    for (const struct cie *cie = cie_first(); cie; cie = cie->next)
        statistics->bytes += held(cie);
    for (struct symbol_file *file = files; file; file = file->next)
        statistics->files++;
    debugger_unlock(state);
}
