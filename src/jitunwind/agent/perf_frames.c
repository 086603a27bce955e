/* Unwind tables as perf puts them into a file behind their code: it moves both, so all addresses become relative, and gives
   its readers a sorted table to search. Formats: LSB core 5.0, sections 10.5.1 (encodings), 10.6.1 and 10.6.2. */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "perf.h"
#include "unwinding.h"

enum { ABSPTR = 0x00, UDATA4 = 0x03, SDATA4 = 0x0b, SDATA8 = 0x0c, PCREL = 0x10, DATAREL = 0x30 };
enum { TERMINATOR_SIZE = 4, HEADER_SIZE = 12, ENTRY_SIZE = 8, ALIGNMENT = 8, AUGMENTATION_AT = 9 };

static unsigned char *skip_leb128(unsigned char *at, const unsigned char *end)
{
    while (at < end && *at & 0x80)
        at++;
    return at + 1;
}

/* Where a CIE says how FDEs have their addresses, if it says so and they are absolute; else NULL. */
static unsigned char *encoding_of(unsigned char *cie, unsigned char *end)
{
    unsigned char *augmentation = cie + AUGMENTATION_AT;
    if (augmentation >= end || *augmentation != 'z')
        return NULL;
    unsigned char *at = memchr(augmentation, 0, (size_t)(end - augmentation));
    if (!at)
        return NULL;
    at = skip_leb128(skip_leb128(at + 1, end), end);
    at = cie[AUGMENTATION_AT - 1] == 1 ? at + 1 : skip_leb128(at, end); /* of the return address */
    at = skip_leb128(at, end);
    for (const unsigned char *letter = augmentation + 1; *letter; letter++)
        if (*letter == 'R')
            return at < end && *at == ABSPTR ? at : NULL;
        else if (*letter != 'S' && *letter != 'B')
            return NULL;
    return NULL;
}

static int by_start(const void *one, const void *other)
{
    int32_t first = *(const int32_t *)one, second = *(const int32_t *)other;
    return (first > second) - (first < second);
}

/* What is made of the entries. */
struct making {
    unsigned char *bytes, *end;
    int64_t place;  /* of `bytes`, from the code's start */
    uint64_t start; /* of the code */
    int32_t *table; /* for each FDE where its code starts and where it lies */
    size_t count, covers;
};

/* An FDE, for the code that lies `shift` bytes further on; its CIE is at `cie`. */
static void put_frame(struct making *making, const unsigned char *frame, size_t size, int64_t shift, size_t cie)
{
    uint64_t address, extent;
    memcpy(&address, frame + 8, sizeof address);
    memcpy(&extent, frame + 16, sizeof extent);
    int64_t at = making->end - making->bytes, offset = (int64_t)(address - making->start);
    int64_t relative = offset + shift - (making->place + at + 8);
    uint32_t back = (uint32_t)((size_t)at + 4 - cie);
    unsigned char *copy = making->end;
    making->end = put(copy, frame, size);
    put(put(copy + 4, &back, sizeof back), &relative, sizeof relative);
    making->table[2 * making->count] = (int32_t)(offset + shift);
    making->table[2 * making->count + 1] = (int32_t)(making->place + at);
    making->count++;
    if ((size_t)offset + extent > making->covers)
        making->covers = (size_t)offset + extent;
}

/* The entries, made relative; each FDE twice, where there is a `shift`. Whether they can be moved. */
static bool put_entries(struct making *making, const unsigned char *entries, size_t size, int64_t shift)
{
    size_t cie_at[2] = {0}; /* the one that was met last: in `entries`, and here */
    for (size_t at = 0; at + 8 <= size;) {
        uint32_t length, back;
        memcpy(&length, entries + at, sizeof length);
        memcpy(&back, entries + at + 4, sizeof back);
        size_t whole = 4 + (size_t)length;
        if (!back) {
            cie_at[0] = at;
            cie_at[1] = (size_t)(making->end - making->bytes);
            unsigned char *copy = making->end;
            making->end = put(copy, entries + at, whole);
            unsigned char *encoding = encoding_of(copy, making->end);
            if (!encoding)
                return false;
            *encoding = PCREL | SDATA8;
        } else if (at + 4 - back != cie_at[0]) {
            return false; /* of another CIE than the last one: nobody writes that */
        } else {
            put_frame(making, entries + at, whole, 0, cie_at[1]);
            if (shift)
                put_frame(making, entries + at, whole, shift, cie_at[1]);
        }
        at += whole;
    }
    return making->count > 0;
}

static size_t count_frames(const unsigned char *entries, size_t size)
{
    const unsigned char *at = entries;
    size_t count = 0;
    while (next_frame(&at, entries + size))
        count++;
    return count;
}

int perf_frames_of(const unsigned char *entries, size_t size, uint64_t start, size_t code_size, int64_t shift,
                   struct perf_frames *frames)
{
    size_t count = 2 * count_frames(entries, size), room = 2 * size + TERMINATOR_SIZE + HEADER_SIZE + count * ENTRY_SIZE;
    if (code_size > INT32_MAX / 2 || room > INT32_MAX / 2)
        return EINVAL; /* it counts in 31 bits */
    unsigned char *bytes = malloc(room);
    int32_t *table = calloc(2 * count + 1, sizeof *table);
    int64_t place = (int64_t)((code_size + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1));
    struct making making = {bytes, bytes, place, start, table, 0, 0};
    if (!bytes || !table || !put_entries(&making, entries, size, shift)) {
        free(bytes);
        free(table);
        return bytes && table ? EINVAL : ENOMEM;
    }
    memset(making.end, 0, TERMINATOR_SIZE);
    unsigned char *header = making.end + TERMINATOR_SIZE;
    int32_t behind = (int32_t)(header - bytes), back = -behind - 4;
    uint32_t entry_count = (uint32_t)making.count;
    *header = 1; /* version */
    header[1] = PCREL | SDATA4;
    header[2] = UDATA4;
    header[3] = DATAREL | SDATA4;
    unsigned char *at = put(put(header + 4, &back, sizeof back), &entry_count, sizeof entry_count);
    qsort(table, making.count, ENTRY_SIZE, by_start);
    for (size_t i = 0; i < 2 * making.count; i++)
        table[i] -= (int32_t)place + behind;
    at = put(at, table, making.count * ENTRY_SIZE);
    free(table);
    *frames = (struct perf_frames){bytes, (size_t)(at - bytes), (size_t)(at - header), making.covers};
    return 0;
}
