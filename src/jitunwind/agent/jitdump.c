/* A jitdump file, /tmp/jit-PID.dump: code with names, lines and unwind tables, of which `perf inject --jit` makes files
   (the kernel's tools/perf/Documentation/jitdump-specification.txt). perf_file.c says how the file is kept.

   A record has the time when its code came, not when it was written: samples are taken in between. What was measured
   of perf, and is heeded here: perf 7.2 loses what is injected where the file lies elsewhere, and dies of records that code was
   moved; perf 6.1 reads the table through the process's mappings, so what is mapped has to cover it, behind the code. */

#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "arch.h"
#include "bytes.h"
#include "consumer.h"
#include "perf.h"

enum { MAGIC = 0x4A695444, VERSION = 1 };
enum { CODE_LOAD = 0, DEBUG_INFO = 2, UNWINDING_INFO = 4 };

struct header {
    uint32_t magic, version, size, machine, padding, pid;
    uint64_t timestamp, flags;
};
struct prefix {
    uint32_t kind, size;
    uint64_t timestamp;
};
struct load {
    struct prefix prefix;
    uint32_t pid, tid;
    uint64_t vma, address, size, index; /* then the name, and the code */
};
struct debug_info {
    struct prefix prefix;
    uint64_t address, count; /* then the lines: address, line, column, path */
};
struct unwinding_info {
    struct prefix prefix;
    uint64_t size, header_size, mapped_size; /* then .eh_frame and .eh_frame_hdr */
};

static uint64_t next_index;
static void *marker; /* perf learns of the file by an executable mapping of it */

static int mark(struct perf_file *file)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (marker) /* the parent's */
        syscall(SYS_munmap, marker, page);
    marker = mmap(NULL, page, PROT_READ | PROT_EXEC, MAP_PRIVATE, file->descriptor, 0);
    if (marker != MAP_FAILED)
        return 0;
    marker = NULL;
    return errno;
}

static int begin(struct perf_file *file)
{
    struct header header = {MAGIC, VERSION, sizeof header, MACHINE, 0, (uint32_t)getpid(), events_now(), 0};
    struct iovec part = {&header, sizeof header};
    perf_file_append(file, &part, 1);
    return *file->problem ? ENOSPC : mark(file);
}

static bool read_at(int descriptor, uint64_t at, void *data, size_t size)
{
    return pread(descriptor, data, size, (off_t)at) == (ssize_t)size;
}

/* Behind the last whole record: one may have been in the making. */
static int go_on(struct perf_file *file)
{
    struct header header;
    if (!read_at(file->descriptor, 0, &header, sizeof header) || header.magic != MAGIC || header.size != sizeof header ||
        header.pid != (uint32_t)getpid())
        return EBADMSG;
    uint64_t at = sizeof header, size = file->size;
    struct load record;
    while (at + sizeof record.prefix <= size && read_at(file->descriptor, at, &record.prefix, sizeof record.prefix) &&
           record.prefix.size >= sizeof record.prefix && record.prefix.size <= size - at) {
        if (record.prefix.kind == CODE_LOAD && read_at(file->descriptor, at, &record, sizeof record) &&
            record.index >= next_index)
            next_index = record.index + 1;
        at += record.prefix.size;
    }
    if (ftruncate(file->descriptor, (off_t)at))
        return errno;
    file->size = at;
    return mark(file);
}

/* The records of the parent's: only the numbers of the process differ. */
static int copy(struct perf_file *file, int parents, uint64_t size)
{
    struct prefix prefix;
    for (uint64_t at = sizeof(struct header); at + sizeof prefix <= size && !*file->problem; at += prefix.size) {
        if (!read_at(parents, at, &prefix, sizeof prefix) || prefix.size < sizeof prefix || prefix.size > size - at)
            return EIO;
        struct load *record = malloc(prefix.size);
        if (!record)
            return ENOMEM;
        bool is_read = read_at(parents, at, record, prefix.size);
        if (is_read && prefix.kind == CODE_LOAD && prefix.size >= sizeof *record)
            record->pid = record->tid = (uint32_t)getpid();
        struct iovec part = {record, prefix.size};
        if (is_read)
            perf_file_append(file, &part, 1);
        free(record);
        if (!is_read)
            return EIO;
    }
    return 0;
}

static struct perf_file file = {
    .prefix = "jit-", .suffix = ".dump", .begin = begin, .go_on = go_on, .copy = copy, .descriptor = -1};

/* The bytes behind the code at which perf has the table. */
static size_t place_of_table(size_t code_size)
{
    return (code_size + 7) & ~(size_t)7;
}

/* Without zeros at the end, which fill the last page and are never run: the table is mapped in their place. */
static size_t size_without_zeros(const struct jitunwind_region *region)
{
    const unsigned char *code = (const unsigned char *)(uintptr_t)region->start;
    size_t size = region->size;
    while (size > region->entry_size + 1 && !code[size - 1])
        size--;
    return size;
}

/* The lines of a region, in memory from malloc, and their size; NULL without memory. */
static unsigned char *lines_of(const struct jitunwind_region *region, size_t *size)
{
    size_t room = 1;
    for (size_t i = 0; i < region->line_count; i++)
        room += sizeof(uint64_t) + 2 * sizeof(uint32_t) + strlen(region->lines[i].file) + 1;
    unsigned char *bytes = malloc(room), *at = bytes;
    for (size_t i = 0; bytes && i < region->line_count; i++) {
        const struct jitunwind_line *line = &region->lines[i];
        uint64_t address = region->start + line->offset;
        uint32_t place[2] = {(uint32_t)line->line, 0};
        at = put(put(at, &address, sizeof address), place, sizeof place);
        at = put(at, line->file, strlen(line->file) + 1);
    }
    *size = (size_t)(at - bytes);
    return bytes;
}

/* The region's entries in one piece, in memory from malloc, as perf gets them: its own, if it has any for perf. */
static int frames_of(const struct jitunwind_publication *publication, const struct jitunwind_region *region,
                     size_t code_size, int64_t shift, struct perf_frames *frames)
{
    if (region->perf_eh_frame_size)
        return perf_frames_of(region->perf_eh_frame, region->perf_eh_frame_size, region->start, code_size, shift, frames);
    size_t of_cie = publication->cie ? publication->cie->size : 0, size = of_cie + publication->frames_size;
    unsigned char *entries = malloc(size + 1);
    if (!entries)
        return ENOMEM;
    unsigned char *at = publication->cie ? put(entries, publication->cie->bytes, of_cie) : entries;
    cie_put_frames(at, publication->frames, publication->frames_size, publication->cie ? entries : NULL);
    int error = size ? perf_frames_of(entries, size, region->start, code_size, shift, frames) : EINVAL;
    free(entries);
    return error;
}

/* Whether the table has room in the region, behind the code: what lies behind the region is another's. */
static bool fits(const struct jitunwind_region *region, size_t code_size, const struct perf_frames *frames)
{
    return place_of_table(code_size) + frames->size <= region->size;
}

/* Addresses that nobody has, for `size` bytes at most 31 bits below `start`; 0: there are none. They are never given back:
   perf is told that code lay there. */
static uint64_t unused_addresses(uint64_t start, size_t size)
{
    enum { CHUNK = 1 << 20, BELOW = 1 << 28, FARTHEST = 1 << 30, PAGE = 1 << 16 };
    static uint64_t next, end;
    size = (size + PAGE - 1) & ~(size_t)(PAGE - 1);
    if (end - next < size || next >= start || start - next > FARTHEST) {
        void *wanted = (void *)(uintptr_t)((start - BELOW) & -(uint64_t)PAGE);
        size_t room = size > CHUNK ? size : CHUNK;
        void *chunk = mmap(wanted, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (chunk == MAP_FAILED)
            return 0;
        next = (uintptr_t)chunk;
        end = next + room;
        if (next >= start || start - next > FARTHEST) {
            syscall(SYS_munmap, chunk, room);
            next = end = 0;
            return 0;
        }
    }
    next += size;
    return next - size;
}

/* A piece of code as records tell of it. */
struct piece {
    const struct jitunwind_region *region;
    uint64_t when, address, index;
    size_t code_size, mapped_size;
    const struct perf_frames *frames;
    const unsigned char *lines;
    size_t lines_size;
};

/* Its table and its lines come before the code. */
static void append(const struct piece *piece)
{
    static const unsigned char padding[8];
    const struct perf_frames *frames = piece->frames;
    const char *name = piece->region->name;
    size_t of_padding = -frames->size & 7, of_name = strlen(name) + 1;
    struct unwinding_info unwinding = {
        {UNWINDING_INFO, (uint32_t)(sizeof unwinding + frames->size + of_padding), piece->when},
        frames->size, frames->header_size, piece->mapped_size};
    struct debug_info debug = {{DEBUG_INFO, (uint32_t)(sizeof debug + piece->lines_size), piece->when},
                               piece->address, piece->region->line_count};
    struct load load = {{CODE_LOAD, (uint32_t)(sizeof load + of_name + piece->code_size), piece->when},
                        (uint32_t)getpid(), (uint32_t)syscall(SYS_gettid),
                        piece->address, piece->address, piece->code_size, piece->index};
    struct iovec parts[] = {
        {&unwinding, frames->bytes ? sizeof unwinding : 0},
        {frames->bytes, frames->size},
        {(void *)padding, frames->bytes ? of_padding : 0},
        {&debug, piece->lines_size ? sizeof debug : 0},
        {(void *)piece->lines, piece->lines_size},
        {&load, sizeof load},
        {(void *)name, of_name},
        {(void *)(uintptr_t)piece->region->start, piece->code_size},
    };
    perf_file_append(&file, parts, sizeof parts / sizeof *parts);
}

/* Tell of a region that has no room for its table. perf 6.1 looks for a file's table from the lowest address on at which
   the file is mapped. So it is told of the same code twice, by one index: at addresses that nobody has, with the table
   behind it, and where it is. The table speaks of both places. */
static int add_twice(const struct jitunwind_publication *publication, struct piece *piece, struct perf_frames *frames)
{
    uint64_t start = piece->region->start;
    uint64_t elsewhere = unused_addresses(start, place_of_table(piece->code_size) + 3 * frames->size);
    if (!elsewhere)
        return 0;
    free(frames->bytes);
    frames->bytes = NULL;
    int error = frames_of(publication, piece->region, piece->code_size, (int64_t)(start - elsewhere), frames);
    if (error)
        return error;
    piece->address = elsewhere;
    piece->mapped_size = frames->size;
    append(piece);
    piece->address = start;
    return 0;
}

static int add(struct jitunwind_publication *publication, const struct jitunwind_region *region)
{
    struct perf_frames frames = {.bytes = NULL};
    if (!perf_file_is_ready(&file))
        return 0; /* as `problem` says */
    uint64_t came = events_came_at(region->start);
    struct piece piece = {.region = region, .when = came ? came : events_now(), .address = region->start, .frames = &frames};
    piece.code_size = size_without_zeros(region);
    int error = frames_of(publication, region, piece.code_size, 0, &frames);
    if (!error && !fits(region, piece.code_size, &frames) && frames.covers < piece.code_size) {
        free(frames.bytes); /* behind what the table covers are constants: they need not be told of */
        frames.bytes = NULL;
        piece.code_size = frames.covers;
        error = frames_of(publication, region, piece.code_size, 0, &frames);
    }
    unsigned char *lines = error == ENOMEM ? NULL : lines_of(region, &piece.lines_size);
    if (!lines) {
        free(frames.bytes);
        return ENOMEM;
    }
    piece.lines = lines;
    piece.index = next_index++;
    if (!error && fits(region, piece.code_size, &frames))
        piece.mapped_size = frames.size;
    else if (!error)
        error = add_twice(publication, &piece, &frames);
    piece.mapped_size = piece.mapped_size && fits(region, piece.code_size, &frames) ? frames.size : 0;
    if (error != ENOMEM)
        append(&piece);
    free(frames.bytes);
    free(lines);
    return error == ENOMEM ? ENOMEM : 0;
}

static bool find(void)
{
    return perf_file_find(&file);
}

static int flush(void)
{
    return perf_file_flush(&file);
}

static const char *problem(void)
{
    return file.problem;
}

const struct consumer jitdump_consumer = {
    .name = "jitdump",
    .bit = JITUNWIND_JITDUMP,
    .find = find,
    .add = add,
    .flush = flush,
    .problem = problem,
};
