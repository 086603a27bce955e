/* What perf reads: files of its own choice of place and name, and code with its unwind table as it puts both into a file. */

#ifndef JITUNWIND_PERF_H
#define JITUNWIND_PERF_H

#include <sys/types.h>
#include <sys/uio.h>

#include "agent.h"

/* perf_file.c: a file of this process, which nobody else may write to. Its functions are called with the lock of
   publishing held. What is written is in the file at once: it stays when the process is killed. */
struct perf_file {
    const char *prefix, *suffix; /* of its path: the process's number comes between */

    /* Write what a new file begins with. 0, or an errno. */
    int (*begin)(struct perf_file *file);

    /* Go on with a file that this process has written before exec(3). 0; EBADMSG, where it is not understood; or another
       errno. NULL: there is nothing to do. */
    int (*go_on)(struct perf_file *file);

    /* Append what is in `size` bytes of a file that the parent wrote before the fork, as of this process. 0, or an errno. */
    int (*copy)(struct perf_file *file, int parents, uint64_t size);

    bool has_begun; /* it could be written to, by this process or by one that has forked it */
    pid_t owner;    /* the process that has it open; 0: none */
    int descriptor;
    uint64_t size;
    char problem[256]; /* why it is not written, or not any more; "": it is */
};

/* Whether it can be written to. It is opened the first time; in the child of a fork, the child's own. */
bool perf_file_is_ready(struct perf_file *file);

/* A consumer's `find`: whether it can be, or could be once. Without the lock. */
bool perf_file_find(struct perf_file *file);

/* A consumer's `flush`: the child of a fork has a file of its own, if its parent had one. 0. */
int perf_file_flush(struct perf_file *file);

/* Append all of the parts, or nothing; then `problem` says why, and nothing is written any more. */
void perf_file_append(struct perf_file *file, const struct iovec *parts, int count);

/* perf_frames.c: .eh_frame entries and their search table (.eh_frame_hdr; LSB core 5.0, section 10.6.2), to lie behind the
   code that they tell of, at the next multiple of 8. */
struct perf_frames {
    unsigned char *bytes; /* from malloc; the search table is behind the entries */
    size_t size, header_size;
    size_t covers; /* bytes of code, from its start */
};

/* Of entries with absolute addresses, for `code_size` bytes of code at `start`; with a `shift`, once more for the same code as
   many bytes further on. 0; ENOMEM; EINVAL, where the entries do
   not tell how addresses are encoded, so that they cannot be moved. */
int perf_frames_of(const unsigned char *entries, size_t size, uint64_t start, size_t code_size, int64_t shift,
                   struct perf_frames *frames);

#endif
