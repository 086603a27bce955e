/* A signal's handler that walks the stack, in a thread that publishes. libgcc's lock is no recursive one: a handler that
   interrupts __register_frame would wait for it for ever. And the first look among new frames calls malloc, which the
   handler may have interrupted. Argument: how many walks. */

#include <execinfo.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/time.h>

#include "agent.h"
#include "check.h"

enum { REGIONS = 4, RSP = 7, RIP = 16, MICROSECONDS = 50 };

static volatile sig_atomic_t walks;

static void walk(int number)
{
    void *pcs[64];
    (void)number;
    walks += backtrace(pcs, 64) > 1;
}

int main(int count, char **arguments)
{
    static const struct jitunwind_rule rule = {RIP, JITUNWIND_SAVED_AT, -8};
    static const struct jitunwind_row row = {0, RSP, 1, 8, &rule};
    static char code[REGIONS][16];
    struct jitunwind_region regions[REGIONS];
    struct jitunwind_publication *handles[REGIONS];
    for (unsigned i = 0; i < REGIONS; i++)
        regions[i] = (struct jitunwind_region){
            .start = (uintptr_t)code[i], .size = sizeof code[i], .name = "f", .rows = &row, .row_count = 1};
    CHECK(count == 2);
    int most = atoi(arguments[1]);
    walk(0); /* the first one loads libgcc, which no handler may */
    struct sigaction action = {.sa_handler = walk, .sa_flags = SA_RESTART};
    struct itimerval timer = {{0, MICROSECONDS}, {0, MICROSECONDS}};
    CHECK(!sigaction(SIGALRM, &action, NULL) && !setitimer(ITIMER_REAL, &timer, NULL));
    while (walks < most) {
        CHECK(!jitunwind_publish(regions, REGIONS, JITUNWIND_LIBGCC, handles));
        jitunwind_withdraw(handles, REGIONS);
    }
    return 0;
}
