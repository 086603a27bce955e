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
_Static_assert(MOST_REGIONS <= 1000, "the names of .text sections have three digits");
static const uint8_t name_at[OTHERS] = {1, 11, 19, 27, 41, 53, 65};
static const uint32_t type_of[OTHERS] = {SHT_PROGBITS, SHT_SYMTAB,   SHT_STRTAB, SHT_PROGBITS,
                                         SHT_PROGBITS, SHT_PROGBITS, SHT_STRTAB};
/* In the header of a unit of .debug_info. */
enum { ABBREV_OFFSET_AT = 8 };

static bool same_abbrev(const struct jitunwind_region *one, const struct jitunwind_region *other)
{
    return one->debug_abbrev_size == other->debug_abbrev_size &&
           !memcmp(one->debug_abbrev, other->debug_abbrev, one->debug_abbrev_size);
}

/* The last region before `index` that has debugging information; NULL, if there is none. */
static const struct jitunwind_region *informed_before(struct jitunwind_publication **regions, unsigned index)
{
    while (index-- > 0)
        if (regions[index]->described.debug_info_size)
            return &regions[index]->described;
    return NULL;
}

static bool brings_abbrev(struct jitunwind_publication **regions, unsigned index)
{
    const struct jitunwind_region *region = &regions[index]->described;
    const struct jitunwind_region *before = informed_before(regions, index);
    return region->debug_info_size && (!before || !same_abbrev(region, before));
}

static void measure(struct jitunwind_publication **regions, unsigned count, size_t *sizes)
{
    sizes[SYMTAB] = (1 + count) * sizeof(Elf64_Sym);
    sizes[STRTAB] = 1;
    sizes[SHSTRTAB] = sizeof section_names + count * TEXT_NAME_SIZE;
    for (unsigned i = 0; i < count; i++) {
        const struct jitunwind_region *region = &regions[i]->described;
        sizes[EH_FRAME] += region->eh_frame_size;
        sizes[STRTAB] += strlen(region->name) + 1;
        sizes[INFO] += region->debug_info_size;
        sizes[LINE] += region->debug_line_size;
        if (brings_abbrev(regions, i))
            sizes[ABBREV] += region->debug_abbrev_size;
    }
}

static const void *append(unsigned char **end, const void *data, size_t size)
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

static void fill(unsigned char *image, const size_t *offsets, struct jitunwind_publication **regions, unsigned count)
{
    unsigned char *ends[OTHERS];
    for (int i = 0; i < OTHERS; i++)
        ends[i] = image + offsets[i];
    Elf64_Sym *symbols = (Elf64_Sym *)(image + offsets[SYMTAB]);
    size_t abbrev = 0;
    ends[STRTAB]++;
    append(&ends[SHSTRTAB], section_names, sizeof section_names);
    for (unsigned i = 0; i < count; i++) {
        struct jitunwind_region *region = &regions[i]->described;
        symbols[1 + i] = (Elf64_Sym){
            .st_name = (uint32_t)(ends[STRTAB] - image - offsets[STRTAB]),
            .st_info = ELF64_ST_INFO(STB_GLOBAL, STT_FUNC),
            .st_shndx = (uint16_t)(1 + i),
            .st_value = region->start,
            .st_size = region->size,
        };
        ends[SHSTRTAB] += 1 + snprintf((char *)ends[SHSTRTAB], TEXT_NAME_SIZE, text_name, i);
        region->name = append(&ends[STRTAB], region->name, strlen(region->name) + 1);
        region->eh_frame = append(&ends[EH_FRAME], region->eh_frame, region->eh_frame_size);
        if (!region->debug_info_size)
            continue;
        const struct jitunwind_region *before = informed_before(regions, i);
        if (before && same_abbrev(region, before)) {
            region->debug_abbrev = before->debug_abbrev;
        } else {
            abbrev = (size_t)(ends[ABBREV] - image) - offsets[ABBREV];
            region->debug_abbrev = append(&ends[ABBREV], region->debug_abbrev, region->debug_abbrev_size);
        }
        unsigned char *info = ends[INFO];
        region->debug_info = append(&ends[INFO], region->debug_info, region->debug_info_size);
        put_u32(info + ABBREV_OFFSET_AT, abbrev);
        put_u32(info + region->stmt_list_at, (size_t)(ends[LINE] - image) - offsets[LINE]);
        region->debug_line = append(&ends[LINE], region->debug_line, region->debug_line_size);
    }
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
            .sh_addr = regions[i]->described.start,
            .sh_offset = sizeof(Elf64_Ehdr),
            .sh_size = regions[i]->described.size,
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

unsigned char *image_of(struct jitunwind_publication **regions, unsigned count, size_t *size)
{
    size_t sizes[OTHERS] = {0}, offsets[OTHERS], at = sizeof(Elf64_Ehdr);
    measure(regions, count, sizes);
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
    fill(image, offsets, regions, count);
    return image;
}
