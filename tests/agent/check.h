/* What the harnesses share: a check that says what was wrong, and where. */

#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <unistd.h>

#define CHECK(condition, ...)                                                                                          \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            dprintf(STDERR_FILENO, "%s:%d: %s:", __FILE__, __LINE__, #condition);                                      \
            dprintf(STDERR_FILENO, " " __VA_ARGS__);                                                                   \
            dprintf(STDERR_FILENO, "\n");                                                                              \
            _exit(1);                                                                                                  \
        }                                                                                                              \
    } while (0)

#endif
