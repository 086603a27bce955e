/* Rows as .eh_frame entries: for those who have no .eh_frame of their own. Formats: DWARF 5 section 6.4.2
   (instructions), LSB core 5.0 section 10.6.1 (entries). Each row says all its rules anew. */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "agent.h"
#include "arch.h"
#include "bytes.h"

enum {
    DW_CFA_ADVANCE_LOC4 = 0x04,
    DW_CFA_UNDEFINED = 0x07,
    DW_CFA_SAME_VALUE = 0x08,
    DW_CFA_REGISTER = 0x09,
    DW_CFA_DEF_CFA = 0x0c,
    DW_CFA_OFFSET_EXTENDED_SF = 0x11,
    DW_CFA_DEF_CFA_SF = 0x12,
};
enum { WORD = 8, LONGEST_ADVANCE = 5 };

/* An offset, factored by the data alignment factor, -1. */
static unsigned char *factored_leb128(unsigned char *at, int64_t offset)
{
    return signed_leb128(at, (int64_t)(0 - (uint64_t)offset));
}

/* Fill an entry that begins at `start` to whole words, and write its length. */
static unsigned char *finish(unsigned char *start, unsigned char *at)
{
    while ((at - start) % WORD)
        *at++ = 0; /* DW_CFA_nop */
    uint32_t length = (uint32_t)(at - start - 4);
    memcpy(start, &length, sizeof length);
    return at;
}

static bool sensible(const struct jitunwind_region *region)
{
    const struct jitunwind_row *rows = region->rows;
    if (rows[0].offset)
        return false;
    for (size_t i = 0; i < region->row_count; i++) {
        if ((i && rows[i].offset <= rows[i - 1].offset) || rows[i].cfa_register >= CFA_REGISTERS)
            return false;
        for (uint32_t j = 0; j < rows[i].rule_count; j++)
            if (rows[i].rules[j].kind > JITUNWIND_UNDEFINED)
                return false;
    }
    return rows[region->row_count - 1].offset < region->size;
}

static unsigned char *put_rule(unsigned char *at, const struct jitunwind_rule *rule)
{
    static const unsigned char opcode[] = {DW_CFA_SAME_VALUE, DW_CFA_OFFSET_EXTENDED_SF, DW_CFA_REGISTER,
                                           DW_CFA_UNDEFINED};
    *at++ = opcode[rule->kind];
    at = unsigned_leb128(at, rule->number);
    if (rule->kind == JITUNWIND_SAVED_AT)
        at = factored_leb128(at, rule->value);
    else if (rule->kind == JITUNWIND_IN_REGISTER)
        at = unsigned_leb128(at, (uint64_t)rule->value);
    return at;
}

/* Whether the row at `index` has a rule for that register. */
static bool has_rule(const struct jitunwind_row *row, uint32_t number)
{
    for (uint32_t i = 0; i < row->rule_count; i++)
        if (row->rules[i].number == number)
            return true;
    return false;
}

/* Not by DW_CFA_set_loc: GDB crashes at it, and others read it wrong. */
static unsigned char *put_advance(unsigned char *at, uint64_t distance)
{
    while (distance) {
        uint32_t advance = distance < UINT32_MAX ? (uint32_t)distance : UINT32_MAX;
        *at++ = DW_CFA_ADVANCE_LOC4;
        at = put(at, &advance, sizeof advance);
        distance -= advance;
    }
    return at;
}

static unsigned char *put_row(unsigned char *at, const struct jitunwind_row *row, const struct jitunwind_row *before)
{
    *at++ = row->cfa_offset < 0 ? DW_CFA_DEF_CFA_SF : DW_CFA_DEF_CFA;
    at = unsigned_leb128(at, row->cfa_register);
    at = row->cfa_offset < 0 ? factored_leb128(at, row->cfa_offset) : unsigned_leb128(at, (uint64_t)row->cfa_offset);
    for (uint32_t i = 0; before && i < before->rule_count; i++)
        if (!has_rule(row, before->rules[i].number)) {
            *at++ = DW_CFA_SAME_VALUE;
            at = unsigned_leb128(at, before->rules[i].number);
        }
    for (uint32_t i = 0; i < row->rule_count; i++)
        at = put_rule(at, &row->rules[i]);
    return at;
}

unsigned char *cfi_of_rows(const struct jitunwind_region *region, size_t *size)
{
    static const unsigned char cie[] = {
        0, 0, 0, 0, 0, 0, 0, 0, 1, 'z', 'R', 0, CODE_ALIGNMENT, 0x7f /* -1 */, RETURN_ADDRESS, 1, 0 /* absptr */,
    };
    if (!sensible(region)) {
        errno = EINVAL;
        return NULL;
    }
    size_t room = 64 + sizeof cie + region->rows[region->row_count - 1].offset / UINT32_MAX * LONGEST_ADVANCE;
    for (size_t i = 0; i < region->row_count; i++) /* its own rules, and those of the row before that it ends */
        room += (3 + 4 * (size_t)region->rows[i].rule_count) * LONGEST_LEB128;
    unsigned char *frames = room <= UINT32_MAX ? malloc(room) : NULL; /* entries' lengths are 32 bits */
    if (!frames) {
        errno = ENOMEM;
        return NULL;
    }
    unsigned char *frame = finish(frames, put(frames, cie, sizeof cie));
    uint32_t back = (uint32_t)(frame + 4 - frames);
    unsigned char *at = put(frame + 4, &back, sizeof back);
    at = put(at, &region->start, sizeof region->start);
    at = put(at, &region->size, sizeof region->size);
    *at++ = 0; /* no augmentation data */
    for (size_t i = 0; i < region->row_count; i++) {
        const struct jitunwind_row *row = &region->rows[i], *before = i ? row - 1 : NULL;
        if (before)
            at = put_advance(at, row->offset - before->offset);
        at = put_row(at, row, before);
    }
    at = finish(frame, at);
    *size = (size_t)(at - frames);
    memset(at, 0, 4); /* the terminator */
    return frames;
}
