/* A table of strings as symbol tables and DWARF refer to them, by offset: each stands in it once. */

#include <stdlib.h>
#include <string.h>

#include "agent.h"

enum { FIRST_SLOTS = 64 };

static uint64_t hashed(uint64_t hash, const char *text) /* FNV-1a */
{
    for (; *text; text++)
        hash = (hash ^ (unsigned char)*text) * 0x100000001b3;
    return hash;
}

/* Where `text` and `end` in one are, or belong. */
static size_t slot_of(const struct strings *table, const char *text, const char *end)
{
    uint64_t hash = hashed(hashed(0xcbf29ce484222325, text), end);
    size_t slot = (size_t)(hash ^ hash >> 32), mask = table->slot_count - 1, length = strlen(text);
    for (;; slot++) {
        const char *there = table->data + table->slots[slot & mask];
        if (!table->slots[slot & mask] || (!strncmp(there, text, length) && !strcmp(there + length, end)))
            return slot & mask;
    }
}

static bool make_slots(struct strings *table)
{
    uint32_t *old = table->slots;
    size_t count = table->slot_count;
    uint32_t *slots = calloc(count ? 2 * count : FIRST_SLOTS, sizeof *slots);
    if (!slots)
        return false;
    table->slots = slots;
    table->slot_count = count ? 2 * count : FIRST_SLOTS;
    for (size_t i = 0; i < count; i++)
        if (old[i])
            slots[slot_of(table, table->data + old[i], "")] = old[i];
    free(old);
    return true;
}

static bool append(struct strings *table, const void *data, size_t size)
{
    if (size > table->room - table->size) {
        size_t room = 2 * table->room + size;
        char *larger = room <= UINT32_MAX ? realloc(table->data, room) : NULL;
        if (!larger)
            return false;
        table->data = larger;
        table->room = room;
    }
    memcpy(table->data + table->size, data, size);
    table->size += size;
    return true;
}

bool strings_begin(struct strings *table, const char *first, size_t size)
{
    *table = (struct strings){0};
    return append(table, first, size) && make_slots(table);
}

uint32_t strings_add(struct strings *table, const char *text, const char *end)
{
    size_t slot = slot_of(table, text, end), size = table->size;
    if (table->slots[slot])
        return table->slots[slot];
    if (table->used >= table->slot_count / 2 && !make_slots(table))
        return 0;
    if (!append(table, text, strlen(text)) || !append(table, end, strlen(end) + 1)) {
        table->size = size;
        return 0;
    }
    table->used++;
    return table->slots[slot_of(table, text, end)] = (uint32_t)size; /* the slots may be new */
}

void strings_end(struct strings *table)
{
    free(table->data);
    free(table->slots);
}
