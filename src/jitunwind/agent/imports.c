/* Hooks in the import table of one loaded object, the interpreter's: its own calls of mprotect and munmap, and
   nobody else's, lead to events.c. With LD_PRELOAD those of the whole process do. Formats: gABI chapter 5. */

#define _GNU_SOURCE
#include <link.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "agent.h"
#include "arch.h"

EXPORTED int mprotect(void *address, size_t size, int protection)
{
    return events_mprotect(address, size, protection);
}

EXPORTED int munmap(void *address, size_t size)
{
    return events_munmap(address, size);
}

struct search {
    uintptr_t inside;
    int hooked;
};

struct object {
    uintptr_t base, protected_start, protected_end; /* whole pages, read-only after relocation */
    const char *strings;
    const ElfW(Sym) * symbols;
};

static void hook(const struct object *object, uintptr_t slot, uintptr_t function)
{
    uintptr_t page = slot & -(uintptr_t)sysconf(_SC_PAGESIZE);
    bool is_protected = object->protected_start <= slot && slot < object->protected_end;
    if (is_protected)
        events_mprotect((void *)page, sizeof function, PROT_READ | PROT_WRITE);
    atomic_store((_Atomic uintptr_t *)slot, function);
    if (is_protected)
        events_mprotect((void *)page, sizeof function, PROT_READ);
}

static int hook_relocations(const struct object *object, const ElfW(Rela) * relocations, size_t size)
{
    int hooked = 0;
    for (const ElfW(Rela) *each = relocations; each < relocations + size / sizeof *each; each++) {
        unsigned type = ELF64_R_TYPE(each->r_info);
        if (type != JUMP_SLOT && type != GLOBAL_DATA)
            continue;
        const char *name = object->strings + object->symbols[ELF64_R_SYM(each->r_info)].st_name;
        if (!strcmp(name, "mprotect"))
            hook(object, object->base + each->r_offset, (uintptr_t)events_mprotect), hooked++;
        else if (!strcmp(name, "munmap"))
            hook(object, object->base + each->r_offset, (uintptr_t)events_munmap), hooked++;
    }
    return hooked;
}

static int hook_object(struct dl_phdr_info *info, const ElfW(Dyn) * dynamic, struct object *object)
{
    uintptr_t values[DT_NUM] = {0};
    for (; dynamic->d_tag != DT_NULL; dynamic++)
        if (dynamic->d_tag > 0 && dynamic->d_tag < DT_NUM) {
            uintptr_t value = dynamic->d_un.d_ptr;
            bool is_address = dynamic->d_tag == DT_JMPREL || dynamic->d_tag == DT_RELA ||
                              dynamic->d_tag == DT_STRTAB || dynamic->d_tag == DT_SYMTAB;
            values[dynamic->d_tag] = is_address && value < info->dlpi_addr ? value + info->dlpi_addr : value;
        }
    if (!values[DT_STRTAB] || !values[DT_SYMTAB])
        return 0;
    object->strings = (const char *)values[DT_STRTAB];
    object->symbols = (const ElfW(Sym) *)values[DT_SYMTAB];
    return hook_relocations(object, (const ElfW(Rela) *)values[DT_JMPREL], values[DT_PLTRELSZ]) +
           hook_relocations(object, (const ElfW(Rela) *)values[DT_RELA], values[DT_RELASZ]);
}

static int visit(struct dl_phdr_info *info, size_t size, void *data)
{
    struct search *search = data;
    struct object object = {.base = info->dlpi_addr};
    const ElfW(Dyn) *dynamic = NULL;
    uintptr_t page = -(uintptr_t)sysconf(_SC_PAGESIZE);
    bool holds = false;
    (void)size;
    for (const ElfW(Phdr) *each = info->dlpi_phdr; each < info->dlpi_phdr + info->dlpi_phnum; each++) {
        uintptr_t start = object.base + each->p_vaddr, end = start + each->p_memsz;
        if (each->p_type == PT_LOAD && start <= search->inside && search->inside < end)
            holds = true;
        else if (each->p_type == PT_DYNAMIC)
            dynamic = (const ElfW(Dyn) *)start;
        else if (each->p_type == PT_GNU_RELRO) {
            object.protected_start = start & page;
            object.protected_end = end & page;
        }
    }
    if (!holds || !dynamic)
        return 0;
    search->hooked = hook_object(info, dynamic, &object);
    return 1;
}

/* Hook the calls of the object that `inside` lies in. How many there are: 0, if it calls neither function that way. */
int jitunwind_follow(uint64_t inside)
{
    struct search search = {.inside = inside};
    dl_iterate_phdr(visit, &search);
    return search.hooked;
}
