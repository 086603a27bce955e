/* Describe JIT code to debuggers and unwinders: the C interface of jitunwind's agent.

   A region is a range of machine code with a name. What is published of it can be read by GDB and LLDB (through
   GDB's JIT interface), by libgcc (C++ exceptions, backtrace, pthread_cancel), by nongnu libunwind and by LLVM's, and by
   perf. Publish a region when its code is complete; withdraw it before its memory is freed or written to again.

   All functions may be called from any thread, and in the child of a fork. None may be called in a signal
   handler. Where the process has a CPython with a JIT interface of its own (3.15 and later), they wait for its GIL.

   Link with the agent (jitunwind agent --libs), or load it with dlopen. */

#ifndef JITUNWIND_H
#define JITUNWIND_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Who is told. */
#define JITUNWIND_GDB 1u       /* GDB and LLDB */
#define JITUNWIND_LIBGCC 2u    /* __register_frame */
#define JITUNWIND_LIBUNWIND 4u /* nongnu libunwind's _U_dyn_register, LLVM's __unw_add_dynamic_fde; nothing, where
                                  neither library is loaded */
#define JITUNWIND_JITDUMP 8u   /* perf inject --jit: /tmp/jit-PID.dump, with code, names, lines and unwind tables */
#define JITUNWIND_PERF_MAP 16u /* perf report: /tmp/perf-PID.map, with names */

/* A register rule: in the caller the register has ... */
enum jitunwind_kind {
    JITUNWIND_SAME_VALUE,  /* the value that it has here */
    JITUNWIND_SAVED_AT,    /* the word at CFA + value */
    JITUNWIND_IN_REGISTER, /* the value that register `value` has here */
    JITUNWIND_UNDEFINED    /* a value that is lost */
};

/* Registers are DWARF numbers, offsets bytes. */
struct jitunwind_rule {
    uint32_t number;
    uint32_t kind;
    int64_t value;
};

/* What holds from `offset` in the region on, to the next row: the CFA is cfa_register + cfa_offset. There is a
   rule for the return address, and one for each callee-saved register; no rule means the same value. */
struct jitunwind_row {
    uint64_t offset;
    uint32_t cfa_register;
    uint32_t rule_count;
    int64_t cfa_offset;
    const struct jitunwind_rule *rules;
};

/* From `offset` in the region on, to the next one, the code is `line` of `file`: best a whole path. */
struct jitunwind_line {
    uint64_t offset;
    const char *file;
    uint64_t line;
};

/* What is said of a region. Nothing that it points to is needed after the call. */
struct jitunwind_region {
    uint64_t start;
    uint64_t size;
    const char *name;
    /* The code that it begins with, if that has another name, such as a trampoline's; or NULL and 0. */
    const char *entry_name;
    size_t entry_size;
    /* Its unwind table, in one of two forms: rows by rising offset, the first at 0; or, with row_count 0, the
       bytes of .eh_frame entries that cover nothing outside the region, with absolute addresses
       (DW_EH_PE_absptr) and without a terminator. Of AArch64's signed return addresses only the second can tell. */
    const struct jitunwind_row *rows;
    size_t row_count;
    const void *eh_frame;
    size_t eh_frame_size;
    /* Its lines, for debuggers, by rising offset, none of them in the entry; or none. */
    const struct jitunwind_line *lines;
    size_t line_count;
    /* For perf, which has a copy of the stack from the stack pointer up, and nothing of what lies below: .eh_frame bytes,
       as above, that need less of it; or NULL and 0, and it gets the same as all. */
    const void *perf_eh_frame;
    size_t perf_eh_frame_size;
};

struct jitunwind_publication;

/* Publish `count` regions, all or none; `handles` gets what withdraws each. 0, or an errno: EINVAL for a region
   or table that makes no sense, EEXIST where one overlaps another that is published, ENOMEM, ENOTSUP for a
   consumer that there is none of. Many regions at once are much cheaper than many calls. */
int jitunwind_publish(const struct jitunwind_region *regions, size_t count, unsigned consumers,
                      struct jitunwind_publication **handles);

/* Why nothing is written, or nothing more, to the file of JITUNWIND_JITDUMP or JITUNWIND_PERF_MAP: a sentence, which stays
   valid until the next call of publish; NULL: it is written. Publishing goes on without it, but for the first time, when
   jitunwind_publish fails with ENOTSUP. */
const char *jitunwind_problem(unsigned consumer);

/* Withdraw what was published. A handle is invalid then. NULLs are passed over. */
void jitunwind_withdraw(struct jitunwind_publication **handles, size_t count);

/* What is published now. */
struct jitunwind_statistics {
    uint64_t regions;
    uint64_t files; /* symbol files that debuggers see */
    uint64_t bytes; /* held for all of that */
};
void jitunwind_statistics(struct jitunwind_statistics *statistics);

#ifdef __cplusplus
}
#endif
#endif
