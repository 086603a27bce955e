/* The symbol file: an ELF object that tells debuggers of many regions, without a copy of their code.

   What lies between regions belongs to nobody, so there is a .text (SHT_NOBITS, at its address) for each run of
   regions without a gap; and each has a name of its own, since LLDB 14 looks for a symbol's section by name, and so
   would put all symbols into the first .text. All names, those of sections, too, stand in one table of strings.
   Format: gABI chapter 4. */

#include <ctype.h>
#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent.h"
#include "arch.h"
#include "bytes.h"

/* The sections. STRTAB is the first, so that an old image's is found; those from OWN on are other names for it. */
enum { STRTAB, EH_FRAME, SYMTAB, ABBREV, INFO, LINE, OWN, OTHERS = OWN + 2 };
enum { STRINGS_AT = sizeof(Elf64_Ehdr) };

/* With these the table of strings begins. */
static const char section_names[] =
    "\0.strtab\0.eh_frame\0.symtab\0.debug_abbrev\0.debug_info\0.debug_line\0.debug_str\0.debug_line_str";
static const uint8_t name_at[OTHERS] = {1, 9, 19, 27, 41, 53, 65, 76};

/* What is to be said of one region, wherever that stands now. */
struct said {
    const char *name, *entry_name; /* NULL: it has no entry */
    const unsigned char *program;
    size_t entry_size;
    /* What the program's numbers of files count in: the lines given, or else these strings. */
    const struct jitunwind_region *given;
    const char *strings;
};

/* What an image is made of, and which of it a region shares with the one before. */
struct part {
    struct said said;
    unsigned char *made; /* the program, where it was not in the old image */
    uint32_t name, symbol_name, entry_name;
    unsigned section;
    bool shares_cie;
};

struct image {
    struct jitunwind_publication **regions;
    struct part *parts;
    unsigned count, texts;
    struct strings strings;
    size_t sizes[OTHERS], offsets[OTHERS];
    unsigned char *bytes;
};

/* Whether GDB would take the end of the name for a compiler's suffix. GDB tries to decode each ELF symbol as Ada, and
   prints "hot.py" as "hot[py]" (remove_compiler_suffix in gdb/ada-lang.c): a suffix is a dot and letters to the end.
   Bytes of other characters than ASCII's may be letters in its locale. A space behind the name stops that. Names in
   DWARF it leaves alone. elf/image.py keeps to the same rule. */
static bool seems_to_have_suffix(const char *name)
{
    const char *dot = strrchr(name, '.');
    if (!dot || !dot[1])
        return false;
    for (const char *at = dot + 1; *at; at++)
        if (!isalpha((unsigned char)*at) && !(*at & 0x80))
            return false;
    return true;
}

/* Debuggers take a name from the unit before that of the symbol; where both say the same, it is not needed. */
static bool needs_unit(const struct jitunwind_region *region)
{
    return region->line_count || seems_to_have_suffix(region->name);
}

/* Whether there was memory for it. */
static bool say(struct part *part, const struct jitunwind_publication *region, const unsigned char *old)
{
    struct said *said = &part->said;
    if (region->is_new) {
        const struct jitunwind_region *given = said->given = region->given;
        said->name = given->name;
        said->entry_size = given->entry_size;
        said->entry_name = given->entry_size ? given->entry_name : NULL;
        if (needs_unit(given))
            said->program = part->made = lines_program(given);
        return part->made || !needs_unit(given);
    }
    said->strings = (const char *)old + STRINGS_AT;
    said->name = said->strings + region->name_at;
    said->entry_size = region->entry_size;
    said->entry_name = region->entry_size ? said->strings + region->entry_name_at : NULL;
    said->program = region->program_at ? old + region->program_at : NULL;
    return true;
}

static const char *path_of(const struct said *said, unsigned number)
{
    uint32_t file = lines_file(said->program, number);
    if (!said->given)
        return said->strings + file;
    return said->given->line_count ? said->given->lines[file].file : said->given->name;
}

/* Where a path stands in the strings: often it is the end of the region's name. 0 without memory. */
static uint32_t place_of(struct image *image, const struct part *part, const char *path)
{
    size_t length = strlen(path), of_name = strlen(part->said.name);
    if (length <= of_name && !strcmp(part->said.name + of_name - length, path))
        return part->name + (uint32_t)(of_name - length);
    return strings_add(&image->strings, path, "");
}

static uint32_t add_symbol_name(struct image *image, const char *name)
{
    return strings_add(&image->strings, name, seems_to_have_suffix(name) ? " " : "");
}

static uint32_t text_name(struct image *image, unsigned section)
{
    char name[sizeof ".text.4294967295"];
    snprintf(name, sizeof name, ".text.%u", section);
    return strings_add(&image->strings, name, "");
}

/* Whether there was memory for all of them; what has been added is found again. */
static bool add_names(struct image *image)
{
    for (unsigned section = 1; section <= image->texts; section++)
        if (!text_name(image, section))
            return false;
    for (struct part *part = image->parts; part < image->parts + image->count; part++) {
        part->name = strings_add(&image->strings, part->said.name, "");
        part->symbol_name = add_symbol_name(image, part->said.name);
        if (!part->name || !part->symbol_name)
            return false;
        if (part->said.entry_name && !(part->entry_name = add_symbol_name(image, part->said.entry_name)))
            return false;
        for (unsigned i = 0; part->said.program && i < lines_file_count(part->said.program); i++)
            if (!place_of(image, part, path_of(&part->said, i)))
                return false;
    }
    return true;
}

/* Regions rise by address: which of them have a .text, and a CIE, together with the one before. */
static void compare(struct image *image)
{
    for (unsigned i = 0; i < image->count; i++) {
        struct part *part = &image->parts[i];
        struct jitunwind_publication **region = image->regions + i;
        if (!i || region[-1]->start + region[-1]->size != region[0]->start)
            image->texts++;
        part->section = image->texts;
        part->shares_cie = i && region[0]->cie == region[-1]->cie;
    }
}

static size_t measure(struct image *image)
{
    size_t *sizes = image->sizes, at = STRINGS_AT;
    sizes[STRTAB] = image->strings.size;
    sizes[SYMTAB] = (1 + image->count) * sizeof(Elf64_Sym);
    sizes[ABBREV] = sizeof lines_abbreviations;
    for (unsigned i = 0; i < image->count; i++) {
        const struct part *part = &image->parts[i];
        const struct cie *cie = image->regions[i]->cie;
        sizes[EH_FRAME] += image->regions[i]->frames_size + (cie && !part->shares_cie ? cie->size : 0);
        if (part->said.entry_size)
            sizes[SYMTAB] += sizeof(Elf64_Sym);
        if (part->said.program) {
            sizes[INFO] += lines_unit_size(image->regions[i]->size - part->said.entry_size);
            sizes[LINE] += lines_size(part->said.program);
        }
    }
    for (unsigned i = 0; i < OWN; i++) {
        image->offsets[i] = at;
        at = (at + sizes[i] + 7) & ~(size_t)7;
    }
    for (unsigned i = OWN; i < OTHERS; i++) {
        image->offsets[i] = image->offsets[STRTAB];
        sizes[i] = sizes[STRTAB];
    }
    return at;
}

static unsigned char *put_symbol(unsigned char *at, uint32_t name, unsigned section, uint64_t start, uint64_t size)
{
    Elf64_Sym symbol = {
        .st_name = name,
        .st_info = ELF64_ST_INFO(STB_GLOBAL, STT_FUNC),
        .st_shndx = (uint16_t)section,
        .st_value = start,
        .st_size = size,
    };
    return put(at, &symbol, sizeof symbol);
}

static unsigned char *put_program(unsigned char *at, struct image *image, const struct part *part)
{
    unsigned char *end = put(at, part->said.program, lines_size(part->said.program));
    for (unsigned i = 0; i < lines_file_count(at); i++)
        lines_set_file(at, i, place_of(image, part, path_of(&part->said, i)));
    return end;
}

static void fill(struct image *image)
{
    unsigned char *ends[OTHERS], *cie = NULL;
    for (int i = 0; i < OTHERS; i++)
        ends[i] = image->bytes + image->offsets[i];
    unsigned char *programs = ends[LINE];
    put(ends[STRTAB], image->strings.data, image->strings.size);
    put(ends[ABBREV], lines_abbreviations, sizeof lines_abbreviations);
    ends[SYMTAB] += sizeof(Elf64_Sym);
    for (unsigned i = 0; i < image->count; i++) {
        struct jitunwind_publication *region = image->regions[i];
        const struct part *part = &image->parts[i];
        const struct said *said = &part->said;
        uint64_t start = region->start + said->entry_size, size = region->size - said->entry_size;
        ends[SYMTAB] = put_symbol(ends[SYMTAB], part->symbol_name, part->section, start, size);
        if (said->entry_size)
            ends[SYMTAB] =
                put_symbol(ends[SYMTAB], part->entry_name, part->section, region->start, said->entry_size);
        if (!part->shares_cie) {
            cie = region->cie ? ends[EH_FRAME] : NULL;
            ends[EH_FRAME] = cie ? put(cie, region->cie->bytes, region->cie->size) : ends[EH_FRAME];
        }
        ends[EH_FRAME] = cie_put_frames(ends[EH_FRAME], region->frames, region->frames_size, cie);
        region->name_at = part->name;
        region->entry_name_at = part->entry_name;
        region->entry_size = (uint32_t)said->entry_size;
        region->program_at = said->program ? (uint32_t)(ends[LINE] - image->bytes) : 0;
        if (said->program) {
            uint32_t program_at = (uint32_t)(ends[LINE] - programs);
            ends[LINE] = put_program(ends[LINE], image, part);
            uint32_t path = lines_file(programs + program_at, 0);
            ends[INFO] = lines_put_unit(ends[INFO], start, size, part->name, path, program_at);
        }
        region->is_new = false;
    }
}

static void write_headers(struct image *image, size_t sections)
{
    unsigned count = 1 + image->texts + OTHERS;
    *(Elf64_Ehdr *)image->bytes = (Elf64_Ehdr){
        .e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
        .e_type = ET_EXEC,
        .e_machine = MACHINE,
        .e_version = EV_CURRENT,
        .e_shoff = sections,
        .e_ehsize = sizeof(Elf64_Ehdr),
        .e_shentsize = sizeof(Elf64_Shdr),
        .e_shnum = (uint16_t)count,
        .e_shstrndx = (uint16_t)(1 + image->texts + STRTAB),
    };
    Elf64_Shdr *headers = (Elf64_Shdr *)(image->bytes + sections);
    for (unsigned i = 0; i < image->count; i++) {
        const struct jitunwind_publication *region = image->regions[i];
        Elf64_Shdr *text = &headers[image->parts[i].section];
        if (!text->sh_type)
            *text = (Elf64_Shdr){
                .sh_name = text_name(image, image->parts[i].section),
                .sh_type = SHT_NOBITS,
                .sh_flags = SHF_ALLOC | SHF_EXECINSTR,
                .sh_addr = region->start,
                .sh_offset = sizeof(Elf64_Ehdr),
                .sh_addralign = 1,
            };
        text->sh_size += region->size;
    }
    for (unsigned i = 0; i < OTHERS; i++)
        headers[1 + image->texts + i] = (Elf64_Shdr){
            .sh_name = name_at[i],
            .sh_type = i == STRTAB ? SHT_STRTAB : i == SYMTAB ? SHT_SYMTAB : SHT_PROGBITS,
            .sh_offset = image->offsets[i],
            .sh_size = image->sizes[i],
            .sh_link = i == SYMTAB ? 1 + image->texts + STRTAB : 0,
            .sh_info = i == SYMTAB,
            .sh_addralign = i == SYMTAB || i == EH_FRAME ? 8 : 1,
            .sh_entsize = i == SYMTAB ? sizeof(Elf64_Sym) : 0,
        };
}

static void make(struct image *image, const unsigned char *old, size_t *size)
{
    for (unsigned i = 0; i < image->count; i++)
        if (!say(&image->parts[i], image->regions[i], old))
            return;
    compare(image);
    if (!strings_begin(&image->strings, section_names, sizeof section_names) || !add_names(image))
        return;
    size_t sections = measure(image);
    *size = sections + (1 + image->texts + OTHERS) * sizeof(Elf64_Shdr);
    if (*size > UINT32_MAX) /* DWARF's and strings' offsets are 32 bits */
        return;
    image->bytes = calloc(1, *size);
    if (!image->bytes)
        return;
    write_headers(image, sections);
    fill(image);
}

unsigned char *image_of(struct jitunwind_publication **regions, unsigned count, const unsigned char *old, size_t *size)
{
    struct image image = {.regions = regions, .count = count, .parts = calloc(count, sizeof *image.parts)};
    if (!image.parts)
        return NULL;
    make(&image, old, size);
    for (unsigned i = 0; i < count; i++)
        free(image.parts[i].made);
    free(image.parts);
    strings_end(&image.strings);
    return image.bytes;
}
