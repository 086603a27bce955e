/* What a walker of stacks gives to walker.c: one of these files is compiled together with it.

   It puts the program counters of the thread's frames into `pcs`, the innermost first, at most `most`, and returns
   how many. */

#ifndef WALKER_H
#define WALKER_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

int walk(uintptr_t *pcs, int most);

/* A line of text that goes to the file as well. */
extern char walker_note[256];

#ifdef __cplusplus
}
#endif
#endif
