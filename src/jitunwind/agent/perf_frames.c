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

/* The entries at `bytes`, made relative, as they lie at `place` from the code's start; `table` gets for each FDE where its
   code starts and where it lies, `covers` how far the last one reaches. How many there are; -1, where one cannot be moved. */
static int64_t make_relative(unsigned char *bytes, size_t size, uint64_t start, int64_t place, int32_t *table,
                             size_t *covers)
{
    int64_t count = 0;
    for (size_t at = 0; at + 8 <= size;) {
        uint32_t length, cie;
        memcpy(&length, bytes + at, sizeof length);
        memcpy(&cie, bytes + at + 4, sizeof cie);
        size_t next = at + 4 + length;
        if (!cie) {
            unsigned char *encoding = encoding_of(bytes + at, bytes + next);
            if (!encoding)
                return -1;
            *encoding = PCREL | SDATA8;
        } else {
            uint64_t address, extent;
            memcpy(&address, bytes + at + 8, sizeof address);
            memcpy(&extent, bytes + at + 16, sizeof extent);
            if (address - start + extent > *covers)
                *covers = address - start + extent;
            int64_t offset = (int64_t)(address - start), relative = offset - (place + (int64_t)at + 8);
            put(bytes + at + 8, &relative, sizeof relative);
            table[2 * count] = (int32_t)offset;
            table[2 * count + 1] = (int32_t)(place + (int64_t)at);
            count++;
        }
        at = next;
    }
    return count;
}

static size_t count_frames(const unsigned char *entries, size_t size)
{
    const unsigned char *at = entries;
    size_t count = 0;
    while (next_frame(&at, entries + size))
        count++;
    return count;
}

int perf_frames_of(const unsigned char *entries, size_t size, uint64_t start, size_t code_size,
                   struct perf_frames *frames)
{
    size_t count = count_frames(entries, size), with_terminator = size + TERMINATOR_SIZE;
    size_t header_size = HEADER_SIZE + count * ENTRY_SIZE;
    if (code_size > INT32_MAX / 2 || with_terminator + header_size > INT32_MAX / 2)
        return EINVAL; /* it counts in 31 bits */
    unsigned char *bytes = malloc(with_terminator + header_size + ALIGNMENT), *header = bytes + with_terminator;
    int32_t *table = calloc(2 * count + 1, sizeof *table);
    size_t covers = 0;
    int64_t place = (int64_t)((code_size + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1)), found = -1;
    if (bytes && table) {
        memset(put(bytes, entries, size), 0, TERMINATOR_SIZE);
        found = make_relative(bytes, size, start, place, table, &covers);
    }
    if (found < 0) {
        int error = bytes && table ? EINVAL : ENOMEM;
        free(bytes);
        free(table);
        return error;
    }
    int32_t header_at = (int32_t)(place + (int64_t)with_terminator), back = -(int32_t)with_terminator - 4;
    uint32_t entry_count = (uint32_t)found;
    *header = 1; /* version */
    header[1] = PCREL | SDATA4;
    header[2] = UDATA4;
    header[3] = DATAREL | SDATA4;
    unsigned char *at = put(put(header + 4, &back, sizeof back), &entry_count, sizeof entry_count);
    qsort(table, (size_t)found, ENTRY_SIZE, by_start);
    for (int64_t i = 0; i < 2 * found; i++)
        table[i] -= header_at;
    put(at, table, (size_t)found * ENTRY_SIZE);
    free(table);
    *frames = (struct perf_frames){bytes, with_terminator + header_size, header_size, covers};
    return 0;
}
