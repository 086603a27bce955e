/* Names and lines as DWARF 5: a unit and a line program for each region, so that a debugger reads only those that it
   meets. Formats: DWARF 5 sections 7.5 (units, abbreviations) and 6.2 (line programs). */

#include <stdlib.h>
#include <string.h>

#include "agent.h"
#include "bytes.h"

enum { DW_TAG_COMPILE_UNIT = 0x11, DW_TAG_SUBPROGRAM = 0x2e, DW_UT_COMPILE = 1, DW_LANG_C11 = 0x1d };
enum {
    DW_AT_NAME = 0x03,
    DW_AT_STMT_LIST = 0x10,
    DW_AT_LOW_PC = 0x11,
    DW_AT_HIGH_PC = 0x12,
    DW_AT_LANGUAGE = 0x13,
    DW_AT_EXTERNAL = 0x3f,
};
enum {
    DW_FORM_ADDR = 0x01,
    DW_FORM_DATA1 = 0x0b,
    DW_FORM_STRP = 0x0e,
    DW_FORM_UDATA = 0x0f,
    DW_FORM_SEC_OFFSET = 0x17,
    DW_FORM_FLAG_PRESENT = 0x19,
    DW_FORM_LINE_STRP = 0x1f,
};
enum { DW_LNS_COPY = 1, DW_LNS_ADVANCE_PC, DW_LNS_ADVANCE_LINE, DW_LNS_SET_FILE, FIRST_SPECIAL };
enum { DW_LNE_END_SEQUENCE = 1, DW_LNE_SET_ADDRESS = 2, DW_LNCT_PATH = 1 };
enum { MOST_FILES = 0x3fff };

const unsigned char lines_abbreviations[LINES_ABBREVIATIONS_SIZE] = {
    1, DW_TAG_COMPILE_UNIT, true,
    /* A debugger then evaluates expressions at a JIT frame as in C. */
    DW_AT_LANGUAGE, DW_FORM_DATA1,
    DW_AT_NAME, DW_FORM_STRP,
    DW_AT_LOW_PC, DW_FORM_ADDR,
    DW_AT_HIGH_PC, DW_FORM_UDATA,
    DW_AT_STMT_LIST, DW_FORM_SEC_OFFSET,
    0, 0,
    2, DW_TAG_SUBPROGRAM, false,
    DW_AT_EXTERNAL, DW_FORM_FLAG_PRESENT,
    DW_AT_NAME, DW_FORM_STRP,
    DW_AT_LOW_PC, DW_FORM_ADDR,
    DW_AT_HIGH_PC, DW_FORM_UDATA,
    0, 0,
    0,
};

/* A line program up to its files: each of those is the offset of its path, 4 bytes. */
struct __attribute__((packed)) header {
    uint32_t length;
    uint16_t version;
    uint8_t address_size, segment_size;
    uint32_t rest; /* of the header */
    uint8_t instruction, operations, is_statement;
    int8_t least_lines;
    uint8_t lines_range, first_special, operands[FIRST_SPECIAL - 1];
    uint8_t directory_formats, directory_format[2], directories;
    uint32_t directory;
    uint8_t file_formats, file_format[2];
    uint8_t files[2]; /* how many, as an unsigned LEB128 of two bytes */
};

static const struct header plain = {
    .version = 5,
    .address_size = 8,
    .instruction = 1,
    .operations = 1,
    .is_statement = 1,
    .least_lines = -100, /* special opcodes here go so many lines on, or lines_range - 1 more, and no address */
    .lines_range = 200,
    .first_special = FIRST_SPECIAL,
    .operands = {0, 1, 1, 1},
    .directory_formats = 1,
    .directory_format = {DW_LNCT_PATH, DW_FORM_LINE_STRP},
    .directories = 1, /* "", at offset 0 */
    .file_formats = 1,
    .file_format = {DW_LNCT_PATH, DW_FORM_LINE_STRP},
};

bool lines_sensible(const struct jitunwind_region *region)
{
    uint64_t before = region->entry_size;
    for (size_t i = 0; i < region->line_count; i++) {
        const struct jitunwind_line *line = &region->lines[i];
        if (line->offset < before || line->offset >= region->size || !line->file || line->line > INT32_MAX)
            return false;
        before = line->offset;
    }
    return true;
}

/* The number of a line's file among the region's, of which `count` are known: those lines are the first that have
   them. Not known: `count`. */
static unsigned number_of(const struct jitunwind_line *lines, const uint32_t *first_lines, unsigned count, size_t line)
{
    unsigned number = 0;
    while (number < count && lines[first_lines[number]].file != lines[line].file &&
           strcmp(lines[first_lines[number]].file, lines[line].file))
        number++;
    return number;
}

static unsigned char *advance(unsigned char *at, uint64_t distance)
{
    *at++ = DW_LNS_ADVANCE_PC;
    return unsigned_leb128(at, distance);
}

/* The program's opcodes; `first_lines` gets the first line of each file, and `files` how many there are. NULL for more
   than MOST_FILES. */
static unsigned char *put_opcodes(unsigned char *at, const struct jitunwind_region *region, uint32_t *first_lines,
                                  unsigned *files)
{
    static const unsigned char set_address[] = {0, 1 + sizeof(uint64_t), DW_LNE_SET_ADDRESS};
    static const unsigned char set_first_file[] = {DW_LNS_SET_FILE, 0}, end[] = {0, 1, DW_LNE_END_SEQUENCE};
    uint64_t offset = region->entry_size, start = region->start + offset;
    int64_t line = 1;
    unsigned file = 1;
    at = put(put(at, set_address, sizeof set_address), &start, sizeof start);
    for (size_t i = 0; i < region->line_count; i++) {
        const struct jitunwind_line *next = &region->lines[i];
        if (next->offset != offset)
            at = advance(at, next->offset - offset);
        offset = next->offset;
        unsigned number = number_of(region->lines, first_lines, *files, i);
        if (number == MOST_FILES)
            return NULL;
        if (number == *files)
            first_lines[(*files)++] = (uint32_t)i;
        if (number != file) {
            *at++ = DW_LNS_SET_FILE;
            at = unsigned_leb128(at, number);
        }
        file = number;
        int64_t lines = (int64_t)next->line - line;
        if (plain.least_lines <= lines && lines < plain.least_lines + plain.lines_range) {
            *at++ = (unsigned char)(FIRST_SPECIAL + lines - plain.least_lines);
        } else {
            *at++ = DW_LNS_ADVANCE_LINE;
            at = signed_leb128(at, lines);
            *at++ = DW_LNS_COPY;
        }
        line = (int64_t)next->line;
    }
    if (!region->line_count) /* else it would be file 1, which there is not */
        at = put(at, set_first_file, sizeof set_first_file);
    return put(advance(at, region->size - offset), end, sizeof end);
}

unsigned char *lines_program(const struct jitunwind_region *region)
{
    enum { MOST_OF_LINE = 5 + 3 * LONGEST_LEB128, MOST_OF_REST = 32 + LONGEST_LEB128 };
    size_t count = region->line_count;
    struct header header = plain;
    unsigned files = 0;
    if (count > UINT32_MAX / 2 / MOST_OF_LINE)
        return NULL;
    uint32_t *first_lines = calloc(count + 1, sizeof *first_lines);
    unsigned char *opcodes = malloc(MOST_OF_REST + count * MOST_OF_LINE), *program = NULL;
    if (!first_lines || !opcodes)
        goto done;
    unsigned char *end = put_opcodes(opcodes, region, first_lines, &files);
    if (!end)
        goto done;
    files += !files; /* without lines it is that of the region's name */
    size_t size = (size_t)(end - opcodes), of_files = files * sizeof *first_lines;
    header.length = (uint32_t)(sizeof header + of_files + size - sizeof header.length);
    header.rest = (uint32_t)(sizeof header + of_files - offsetof(struct header, instruction));
    header.files[0] = (uint8_t)(files | 0x80);
    header.files[1] = (uint8_t)(files >> 7);
    program = malloc(sizeof header + of_files + size);
    if (program)
        put(put(put(program, &header, sizeof header), first_lines, of_files), opcodes, size);
done:
    free(first_lines);
    free(opcodes);
    return program;
}

size_t lines_size(const unsigned char *program)
{
    uint32_t length;
    memcpy(&length, program, sizeof length);
    return 4 + (size_t)length;
}

unsigned lines_file_count(const unsigned char *program)
{
    const struct header *header = (const struct header *)program;
    return (header->files[0] & 0x7fu) | (unsigned)header->files[1] << 7;
}

uint32_t lines_file(const unsigned char *program, unsigned number)
{
    uint32_t file;
    memcpy(&file, program + sizeof(struct header) + number * sizeof file, sizeof file);
    return file;
}

void lines_set_file(unsigned char *program, unsigned number, uint32_t file)
{
    put(program + sizeof(struct header) + number * sizeof file, &file, sizeof file);
}

struct __attribute__((packed)) unit_head {
    uint32_t length;
    uint16_t version;
    uint8_t type, address_size;
    uint32_t abbreviations;
    uint8_t compile_unit, language;
    uint32_t name;
    uint64_t low_pc; /* and high_pc, as an unsigned LEB128 of the size */
};
struct __attribute__((packed)) unit_tail {
    uint32_t stmt_list;
    uint8_t subprogram;
    uint32_t name;
    uint64_t low_pc; /* and high_pc, and 0: there is nothing more in it */
};

size_t lines_unit_size(uint64_t size)
{
    unsigned char high_pc[LONGEST_LEB128];
    size_t of_high_pc = (size_t)(unsigned_leb128(high_pc, size) - high_pc);
    return sizeof(struct unit_head) + of_high_pc + sizeof(struct unit_tail) + of_high_pc + 1;
}

unsigned char *lines_put_unit(unsigned char *at, uint64_t start, uint64_t size, uint32_t name, uint32_t file,
                              uint32_t program_at)
{
    struct unit_head head = {
        .length = (uint32_t)(lines_unit_size(size) - sizeof head.length),
        .version = 5,
        .type = DW_UT_COMPILE,
        .address_size = sizeof start,
        .compile_unit = 1,
        .language = DW_LANG_C11,
        .name = file,
        .low_pc = start,
    };
    struct unit_tail tail = {.stmt_list = program_at, .subprogram = 2, .name = name, .low_pc = start};
    at = unsigned_leb128(put(at, &head, sizeof head), size);
    at = unsigned_leb128(put(at, &tail, sizeof tail), size);
    *at++ = 0;
    return at;
}
