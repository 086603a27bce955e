/* What the agent's own files share. */

#ifndef JITUNWIND_AGENT_H
#define JITUNWIND_AGENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "debugger.h"
#include "jitunwind.h"

#define EXPORTED __attribute__((visibility("default")))

/* One published region. */
struct jitunwind_publication {
    uint64_t start, size;
    struct dynamic_info *dynamic; /* libunwind.c's */
    unsigned char *llvm;          /* llvm.c's: `frames`, or a copy of them */
    struct symbol_file *file;     /* symbol_files.c's, as what follows */
    /* What its file says of it: as it was given, and from then on where it is in the file's image. */
    union {
        const struct jitunwind_region *given;
        struct {
            uint32_t name_at, entry_name_at;
        };
    };
    bool is_new; /* it is `given` */
    uint8_t consumers; /* for which it was published: their bits in jitunwind.h */
    uint8_t told;      /* which know it: a bit for each by its index (consumers.c) */
    uint32_t entry_size, program_at;
    uint32_t frames_size;   /* without the terminator */
    const struct cie *cie;  /* that all of the frames point to; NULL: they have their own among them */
    unsigned char frames[]; /* .eh_frame entries and a terminator: they stay where they are */
};

/* One symbol file, which holds many regions. */
enum { MOST_REGIONS = 256 };
struct symbol_file {
    struct jit_code_entry entries[2]; /* symbol_file: the image. The current one is in the debuggers' list, the other
                                         one is that of the next image */
    struct symbol_file *next;
    unsigned current;
    bool listed;  /* debuggers know it */
    bool changed; /* its image is not up to date */
    unsigned count, room;
    struct jitunwind_publication **regions; /* `room` places, by rising address */
};

/* image.c: the ELF object that tells of `count` regions, in memory from malloc, and its size; NULL without memory.
   What it says of those that are not new is taken from `old`, where they were before. */
unsigned char *image_of(struct jitunwind_publication **regions, unsigned count, const unsigned char *old, size_t *size);

/* lines.c: names and lines in DWARF. A program is what a unit's line table is made by; its files have numbers there,
   and each a number that the program itself says nothing about. */
enum { LINES_ABBREVIATIONS_SIZE = 29 };
extern const unsigned char lines_abbreviations[LINES_ABBREVIATIONS_SIZE]; /* of all units */
bool lines_sensible(const struct jitunwind_region *region);
/* In memory from malloc; NULL without. A file's number is the first line that has it. */
unsigned char *lines_program(const struct jitunwind_region *region);
size_t lines_size(const unsigned char *program);
unsigned lines_file_count(const unsigned char *program);
uint32_t lines_file(const unsigned char *program, unsigned index);
void lines_set_file(unsigned char *program, unsigned index, uint32_t number);
/* The unit of `size` bytes of code, which has its abbreviations at the begin of their section, and its end. */
size_t lines_unit_size(uint64_t size);
unsigned char *lines_put_unit(unsigned char *at, uint64_t start, uint64_t size, uint32_t name, uint32_t file,
                              uint32_t program_at);

/* strings.c: a table of strings that knows where each is that was added, in memory from malloc. */
struct strings {
    char *data;
    size_t size, room;
    struct string_slot {
        uint32_t hash, at; /* 0: empty */
    } *slots;
    size_t slot_count, used;
};
/* `first` is what it begins with, and not to be found. False without memory. */
bool strings_begin(struct strings *table, const char *first, size_t size);
/* Where `text` and `end` in one stand; 0 without memory. */
uint32_t strings_add(struct strings *table, const char *text, const char *end);
void strings_end(struct strings *table);

/* debugger.c: the debuggers' list. Its lock is taken first of all. */
bool debugger_find(void);
void debugger_lock(int *state);
void debugger_unlock(int state);
void debugger_unregister(struct jit_code_entry *entry);
void debugger_replace(struct jit_code_entry *old, struct jit_code_entry *new); /* either may be NULL */

/* cies.c: the CIEs that frames of many regions point to. They stay for good. */
struct cie {
    const struct cie *next;
    size_t size;
    unsigned char bytes[];
};
const struct cie *cie_first(void);
/* That with which `frames` begin, if all of them share it; or NULL. */
const struct cie *cie_of(const unsigned char *frames, size_t size);
bool cie_reaches(const struct cie *cie, const unsigned char *frames, size_t size); /* from all of those */
/* Put FDEs to `at`, to point to `cie`, or, where that is NULL, entries as they are. */
unsigned char *cie_put_frames(unsigned char *at, const unsigned char *frames, size_t size, const unsigned char *cie);

/* rows.c: rows as .eh_frame entries with a terminator behind them, in memory from malloc; NULL with errno. */
unsigned char *cfi_of_rows(const struct jitunwind_region *region, size_t *size);

/* events.c: which code comes and goes. */
enum event_kind { NOTHING, CODE_CAME, CODE_GOES };
struct jitunwind_event {
    uint64_t kind, start, size;
};
int events_mprotect(void *address, size_t size, int protection); /* in the places of those of an import table */
int events_munmap(void *address, size_t size);
void jitunwind_unmap(uint64_t start, uint64_t size);
void jitunwind_remember(uint64_t start);
uint64_t events_now(void); /* the time in ns of CLOCK_MONOTONIC */
uint64_t events_came_at(uint64_t start); /* when code came there, by that clock; 0: that is not known */
void jitunwind_pause(void);
void jitunwind_resume(int now);
void jitunwind_call(void);
int jitunwind_is_paused(void);
void jitunwind_set_worker(void (*function)(void *), void *argument);
size_t jitunwind_events(void);
size_t jitunwind_take(struct jitunwind_event *events, size_t room);
int jitunwind_lost(void);

/* imports.c */
int jitunwind_follow(uint64_t inside);

/* cpython.c */
struct executor {
    uint64_t address, start;
};
struct executor_layout {
    size_t code, registration; /* in an executor: of its machine code, of a pointer to what CPython has published of it */
    size_t debugger, libgcc;   /* in that: of pointers to an entry in the debuggers' list, and to frames */
};
int jitunwind_replace(const struct jitunwind_region *regions, size_t count, unsigned consumers,
                      const struct executor *executors, size_t executor_count, const struct executor_layout *layout,
                      struct jitunwind_publication **handles);
bool read_here(uint64_t address, void *data, size_t size);

/* store.c: what jitunwind_publish does before it takes the debuggers' lock, and with it. */
int store_check(const struct jitunwind_region *regions, size_t count, unsigned bits);
int store_publish(const struct jitunwind_region *regions, size_t count, unsigned bits,
                  struct jitunwind_publication **handles);

/* store.c: tell further consumers of regions that are published; of others nothing is said. 0, or an errno. */
int jitunwind_tell(const struct jitunwind_region *regions, size_t count, unsigned bits);

/* store.c: withdraw all regions that lie in [start, start + size) in part or in whole. */
void jitunwind_withdraw_range(uint64_t start, uint64_t size);
int jitunwind_knows(uint64_t address);

#endif
