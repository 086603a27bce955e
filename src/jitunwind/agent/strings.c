/* A table of strings as symbol tables and DWARF refer to them, by offset: each stands in it once. */

#include <stdlib.h>
#include <string.h>

#include "agent.h"

enum { FIRST_SLOTS = 64 };

static uint64_t hashed(uint64_t hash, const char *text)
{
    enum { FACTOR = 0x9e3779b1 }; /* a prime near 2^32 / 1.618 */
    size_t length = strlen(text);
    uint64_t word = 0;
    for (; length >= sizeof word; text += sizeof word, length -= sizeof word) {
        memcpy(&word, text, sizeof word);
        hash = (hash ^ word) * FACTOR;
        hash ^= hash >> 32;
    }
    for (; length; text++, length--)
        hash = (hash ^ (unsigned char)*text) * FACTOR;
    return hash ^ hash >> 32;
}

/* Where `text` and `end` in one are, or belong. */
static struct string_slot *slot_of(const struct strings *table, uint32_t hash, const char *text, const char *end)
{
    size_t mask = table->slot_count - 1, length = strlen(text);
    for (size_t place = hash;; place++) {
        struct string_slot *slot = &table->slots[place & mask];
        const char *there = table->data + slot->at;
        if (!slot->at || (slot->hash == hash && !strncmp(there, text, length) && !strcmp(there + length, end)))
            return slot;
    }
}

static bool make_slots(struct strings *table)
{
    size_t count = table->slot_count ? 2 * table->slot_count : FIRST_SLOTS;
    struct string_slot *slots = calloc(count, sizeof *slots);
    if (!slots)
        return false;
    for (const struct string_slot *old = table->slots; old < table->slots + table->slot_count; old++) {
        size_t place = old->hash;
        while (old->at && slots[place & (count - 1)].at)
            place++;
        if (old->at)
            slots[place & (count - 1)] = *old;
    }
    free(table->slots);
    table->slots = slots;
    table->slot_count = count;
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
    uint32_t hash = (uint32_t)hashed(hashed(0, text), end), at = (uint32_t)table->size;
    if (table->used >= table->slot_count / 2 && !make_slots(table))
        return 0;
    struct string_slot *slot = slot_of(table, hash, text, end);
    if (slot->at)
        return slot->at;
    if (!append(table, text, strlen(text)) || !append(table, end, strlen(end) + 1)) {
        table->size = at;
        return 0;
    }
    table->used++;
    *slot = (struct string_slot){hash, at};
    return at;
}

void strings_end(struct strings *table)
{
    free(table->data);
    free(table->slots);
}
