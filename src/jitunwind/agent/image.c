/* The symbol file: an ELF object that tells debuggers of many regions, without a copy of their code.

   Each region has a .text of its own (SHT_NOBITS, at its address), so that what lies between regions belongs to
   nobody; and each has a name of its own, since LLDB 14 looks for a symbol's section by name, and so would put all
   symbols into the first .text. Formats: gABI chapter 4; DWARF 5 section 7.5.1 (unit headers). */

#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent.h"

#if defined(__x86_64__)
#define MACHINE EM_X86_64
#elif defined(__aarch64__)
#define MACHINE EM_AARCH64
#else
#error "unknown architecture"
#endif

enum { EH_FRAME, SYMTAB, STRTAB, ABBREV, INFO, LINE, SHSTRTAB, OTHERS };

static const char section_names[] =
    "\0.eh_frame\0.symtab\0.strtab\0.debug_abbrev\0.debug_info\0.debug_line\0.shstrtab";
static const char text_name[] = ".text.%03u";
enum { TEXT_NAME_SIZE = sizeof ".text.255" };
_Static_assert(MOST_REGIONS <= 256, "the names of .text sections have room for a byte");
static const uint8_t name_at[OTHERS] = {1, 11, 19, 27, 41, 53, 65};
static const uint32_t type_of[OTHERS] = {SHT_PROGBITS, SHT_SYMTAB,   SHT_STRTAB, SHT_PROGBITS,
                                         SHT_PROGBITS, SHT_PROGBITS, SHT_STRTAB};
/* In the header of a unit of .debug_info. */
enum { ABBREV_OFFSET_AT = 8 };

/* What is to be said of one region, wherever that stands now. */
struct said {
    const char *name, *entry_name;
    const unsigned char *frames, *info, *abbrev, *line;
    size_t entry_size, frames_size, info_size, stmt_list_at, abbrev_size, line_size;
};

static struct said said_of(const struct jitunwind_publication *region, const unsigned char *old)
{
    const struct jitunwind_region *given = region->given;
    if (given)
        return (struct said){
            .name = given->name,
            .entry_name = given->entry_name,
            .entry_size = given->entry_size,
            .frames = region->frames,
            .frames_size = region->frames_size,
            .info = given->debug_info,
            .info_size = given->debug_info_size,
            .stmt_list_at = given->stmt_list_at,
            .abbrev = given->debug_abbrev,
            .abbrev_size = given->debug_abbrev_size,
            .line = given->debug_line,
            .line_size = given->debug_line_size,
        };
    return (struct said){
        .name = (const char *)old + region->name_at,
        .entry_name = (const char *)old + region->entry_name_at,
        .entry_size = region->entry_size,
        .frames = region->frames,
        .frames_size = region->frames_size,
        .info = old + region->info_at,
        .info_size = region->info_size,
        .stmt_list_at = region->stmt_list_at,
        .abbrev = old + region->abbrev_at,
        .abbrev_size = region->abbrev_size,
        .line = old + region->line_at,
        .line_size = region->line_size,
    };
}

static bool same(const unsigned char *one, size_t size, const unsigned char *other, size_t other_size)
{
    return size == other_size && !memcmp(one, other, size);
}

/* The size of the CIE that all frames of a region share; 0, if they do not begin with one that they all have. */
static size_t common_cie(const struct said *said)
{
    uint32_t length, back;
    size_t at = 0, cie_size = 0;
    while (at < said->frames_size) {
        memcpy(&length, said->frames + at, sizeof length);
        memcpy(&back, said->frames + at + 4, sizeof back);
        if (!back == (at > 0) || (back && back != at + 4))
            return 0;
        at += 4 + (size_t)length;
        if (!back)
            cie_size = at;
    }
    return cie_size;
}

/* What an image is made of, and which of it a region shares with the one before. */
struct part {
    struct said said;
    size_t cie_size;
    bool shares_cie, shares_abbrev, shares_entry_name;
};

static void compare(struct part *parts, unsigned count)
{
    const struct said *informed = NULL, *entered = NULL;
    for (unsigned i = 0; i < count; i++) {
        struct said *said = &parts[i].said;
        parts[i].cie_size = common_cie(said);
        parts[i].shares_cie = i && parts[i].cie_size &&
                              same(said->frames, parts[i].cie_size, parts[i - 1].said.frames, parts[i - 1].cie_size);
        parts[i].shares_abbrev =
            informed && same(said->abbrev, said->abbrev_size, informed->abbrev, informed->abbrev_size);
        if (said->info_size)
            informed = said;
        parts[i].shares_entry_name =
            said->entry_size && entered && !strcmp(said->entry_name, entered->entry_name);
        if (said->entry_size)
            entered = said;
    }
}

static void measure(const struct part *parts, unsigned count, size_t *sizes)
{
    sizes[SYMTAB] = (1 + count) * sizeof(Elf64_Sym);
    sizes[STRTAB] = 1;
    sizes[SHSTRTAB] = sizeof section_names + count * TEXT_NAME_SIZE;
    for (const struct part *part = parts; part < parts + count; part++) {
        sizes[EH_FRAME] += part->said.frames_size - (part->shares_cie ? part->cie_size : 0);
        sizes[STRTAB] += strlen(part->said.name) + 1;
        if (part->said.entry_size)
            sizes[SYMTAB] += sizeof(Elf64_Sym);
        if (part->said.entry_size && !part->shares_entry_name)
            sizes[STRTAB] += strlen(part->said.entry_name) + 1;
        sizes[INFO] += part->said.info_size;
        sizes[LINE] += part->said.line_size;
        if (part->said.info_size && !part->shares_abbrev)
            sizes[ABBREV] += part->said.abbrev_size;
    }
}

/* Where what is appended begins. */
static unsigned char *append(unsigned char **end, const void *data, size_t size)
{
    unsigned char *place = *end;
    if (size)
        memcpy(place, data, size);
    *end = place + size;
    return place;
}

static void put_u32(unsigned char *place, size_t value)
{
    uint32_t word = (uint32_t)value;
    memcpy(place, &word, sizeof word);
}

/* Append the FDEs behind a region's CIE, and have them point to `cie`. */
static void append_frames(unsigned char **end, const struct part *part, const unsigned char *cie)
{
    unsigned char *at = append(end, part->said.frames + part->cie_size, part->said.frames_size - part->cie_size);
    while (at < *end) {
        uint32_t length;
        memcpy(&length, at, sizeof length);
        put_u32(at + 4, (size_t)(at + 4 - cie));
        at += 4 + (size_t)length;
    }
}

static void append_symbol(unsigned char **end, size_t name, unsigned section, uint64_t start, uint64_t size)
{
    Elf64_Sym symbol = {
        .st_name = (uint32_t)name,
        .st_info = ELF64_ST_INFO(STB_GLOBAL, STT_FUNC),
        .st_shndx = (uint16_t)section,
        .st_value = start,
        .st_size = size,
    };
    append(end, &symbol, sizeof symbol);
}

static void fill(unsigned char *image, const size_t *offsets, struct jitunwind_publication **regions,
                 const struct part *parts, unsigned count)
{
    unsigned char *ends[OTHERS], *cie = NULL, *abbrev = NULL, *entry_name = NULL;
    for (int i = 0; i < OTHERS; i++)
        ends[i] = image + offsets[i];
    ends[SYMTAB] += sizeof(Elf64_Sym);
    ends[STRTAB]++;
    for (unsigned i = 0; i < count; i++) {
        struct jitunwind_publication *region = regions[i];
        const struct said *said = &parts[i].said;
        unsigned char *name = append(&ends[STRTAB], said->name, strlen(said->name) + 1);
        append_symbol(&ends[SYMTAB], name - image - offsets[STRTAB], 1 + i, region->start + said->entry_size,
                      region->size - said->entry_size);
        region->name_at = (uint32_t)(name - image);
        region->entry_size = (uint32_t)said->entry_size;
        if (said->entry_size) {
            if (!parts[i].shares_entry_name)
                entry_name = append(&ends[STRTAB], said->entry_name, strlen(said->entry_name) + 1);
            append_symbol(&ends[SYMTAB], entry_name - image - offsets[STRTAB], 1 + i, region->start, said->entry_size);
            region->entry_name_at = (uint32_t)(entry_name - image);
        }
        if (!parts[i].shares_cie)
            cie = append(&ends[EH_FRAME], said->frames, parts[i].cie_size);
        if (parts[i].cie_size)
            append_frames(&ends[EH_FRAME], &parts[i], cie);
        else
            append(&ends[EH_FRAME], said->frames, said->frames_size);
        region->given = NULL;
        region->info_size = (uint32_t)said->info_size;
        if (!said->info_size)
            continue;
        if (!parts[i].shares_abbrev)
            abbrev = append(&ends[ABBREV], said->abbrev, said->abbrev_size);
        unsigned char *info = append(&ends[INFO], said->info, said->info_size);
        unsigned char *line = append(&ends[LINE], said->line, said->line_size);
        put_u32(info + ABBREV_OFFSET_AT, (size_t)(abbrev - image) - offsets[ABBREV]);
        put_u32(info + said->stmt_list_at, (size_t)(line - image) - offsets[LINE]);
        region->info_at = (uint32_t)(info - image);
        region->stmt_list_at = (uint32_t)said->stmt_list_at;
        region->abbrev_at = (uint32_t)(abbrev - image);
        region->abbrev_size = (uint32_t)said->abbrev_size;
        region->line_at = (uint32_t)(line - image);
        region->line_size = (uint32_t)said->line_size;
    }
    append(&ends[SHSTRTAB], section_names, sizeof section_names);
    for (unsigned i = 0; i < count; i++, ends[SHSTRTAB] += TEXT_NAME_SIZE)
        snprintf((char *)ends[SHSTRTAB], TEXT_NAME_SIZE, text_name, (uint8_t)i);
}

static void write_headers(unsigned char *image, const size_t *offsets, const size_t *sizes, size_t sections,
                          struct jitunwind_publication **regions, unsigned count)
{
    *(Elf64_Ehdr *)image = (Elf64_Ehdr){
        .e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
        .e_type = ET_EXEC,
        .e_machine = MACHINE,
        .e_version = EV_CURRENT,
        .e_shoff = sections,
        .e_ehsize = sizeof(Elf64_Ehdr),
        .e_shentsize = sizeof(Elf64_Shdr),
        .e_shnum = (uint16_t)(1 + count + OTHERS),
        .e_shstrndx = (uint16_t)(1 + count + SHSTRTAB),
    };
    Elf64_Shdr *headers = (Elf64_Shdr *)(image + sections);
    for (unsigned i = 0; i < count; i++)
        headers[1 + i] = (Elf64_Shdr){
            .sh_name = (uint32_t)(sizeof section_names + i * TEXT_NAME_SIZE),
            .sh_type = SHT_NOBITS,
            .sh_flags = SHF_ALLOC | SHF_EXECINSTR,
            .sh_addr = regions[i]->start,
            .sh_offset = sizeof(Elf64_Ehdr),
            .sh_size = regions[i]->size,
            .sh_addralign = 1,
        };
    for (unsigned i = 0; i < OTHERS; i++)
        headers[1 + count + i] = (Elf64_Shdr){
            .sh_name = name_at[i],
            .sh_type = type_of[i],
            .sh_offset = offsets[i],
            .sh_size = sizes[i],
            .sh_link = i == SYMTAB ? 1 + count + STRTAB : 0,
            .sh_info = i == SYMTAB,
            .sh_addralign = i == SYMTAB || i == EH_FRAME ? 8 : 1,
            .sh_entsize = i == SYMTAB ? sizeof(Elf64_Sym) : 0,
        };
}

static unsigned char *made(struct jitunwind_publication **regions, struct part *parts, unsigned count, size_t *size)
{
    size_t sizes[OTHERS] = {0}, offsets[OTHERS], at = sizeof(Elf64_Ehdr);
    compare(parts, count);
    measure(parts, count, sizes);
    for (int i = 0; i < OTHERS; i++) {
        offsets[i] = at;
        at = (at + sizes[i] + 7) & ~(size_t)7;
    }
    *size = at + (1 + count + OTHERS) * sizeof(Elf64_Shdr);
    if (*size > UINT32_MAX) /* DWARF's and strings' offsets are 32 bits */
        return NULL;
    unsigned char *image = calloc(1, *size);
    if (!image)
        return NULL;
    write_headers(image, offsets, sizes, at, regions, count);
    fill(image, offsets, regions, parts, count);
    return image;
}

unsigned char *image_of(struct jitunwind_publication **regions, unsigned count, const unsigned char *old, size_t *size)
{
    struct part *parts = calloc(count, sizeof *parts);
    if (!parts)
        return NULL;
    for (unsigned i = 0; i < count; i++)
        parts[i].said = said_of(regions[i], old);
    unsigned char *image = made(regions, parts, count, size);
    free(parts);
    return image;
}
