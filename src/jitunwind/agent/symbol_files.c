/* Symbol files, through which debuggers know published code (GDB's JIT interface).

   Regions share symbol files of at most MOST_REGIONS, so that a debugger has few to read, and a change costs little:
   the file it concerns is built anew and announced in the place of the old one. */

#include <errno.h>
#include <stdlib.h>

#include "consumer.h"

static struct symbol_file *files;
static struct symbol_file *filling; /* that gets the next region */
static uint64_t bytes_held;

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

static int add(struct jitunwind_publication *publication, const struct jitunwind_region *region)
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
    publication->given = region;
    publication->is_new = true;
    return 0;
}

static bool take_out(struct jitunwind_publication *publication)
{
    struct symbol_file *file = publication->file;
    unsigned at = 0;
    while (file->regions[at] != publication)
        at++;
    for (file->count--; at < file->count; at++)
        file->regions[at] = file->regions[at + 1];
    file->changed = true;
    publication->file = NULL;
    return false;
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

static void count_files(struct jitunwind_statistics *statistics)
{
    statistics->bytes += bytes_held;
    for (const struct symbol_file *file = files; file; file = file->next)
        statistics->files++;
}

const struct consumer symbol_files_consumer = {
    .name = "gdb",
    .bit = JITUNWIND_GDB,
    .find = debugger_find,
    .add = add,
    .remove = take_out,
    .flush = announce_changes,
    .count = count_files,
};
