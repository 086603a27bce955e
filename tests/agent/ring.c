/* The ring of events and the worker, from within: each case is a function, run by its name.

   Includes events.c itself: what another thread was in the middle of when a process forked can only be made up from
   inside. */

#include "events.c"

#include <dirent.h>
#include <errno.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "check.h"

enum { WRITERS = 4, EVENTS = 40000, PAGE = 1 << PAGE_BITS };

static sem_t called;
#ifdef __SANITIZE_THREAD__
static unsigned alone = 2; /* it has a thread of its own */
#else
static unsigned alone; /* the threads at the start: qemu has one of its own */
#endif

static void wait_for_call(void)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 30;
    CHECK(sem_timedwait(&called, &until) == 0, "the worker was not called");
}

static void answer(void *unused)
{
    (void)unused;
    struct jitunwind_event event;
    while (jitunwind_take(&event, 1))
        if (event.kind == CODE_GOES)
            jitunwind_unmap(event.start, event.size);
    sem_post(&called);
}

static unsigned threads_there(void)
{
    DIR *folder = opendir("/proc/self/task");
    unsigned count = 0;
    for (struct dirent *each; (each = readdir(folder));)
        count += each->d_name[0] != '.';
    closedir(folder);
    return count;
}

/* Other threads have ended; the kernel may count them for a moment longer. */
static void wait_to_be_alone(void)
{
    while (threads_there() > alone)
        sched_yield();
}

/* Run `function` in a child, with the ring as it is now. */
static void in_child(void (*function)(void))
{
    pid_t child = fork();
    int status;
    if (!child) {
        alarm(30);
        function();
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && status == 0, "the child ended with %#x", status);
}

static void *write_many(void *number)
{
    for (uint64_t i = 1; i <= EVENTS; i++)
        while (!append(CODE_CAME, (uintptr_t)number, i))
            sched_yield();
    return NULL;
}

/* Many writers, one reader, many laps: each event comes once, and each writer's in order. */
static void laps(void)
{
    pthread_t writers[WRITERS];
    uint64_t last[WRITERS] = {0};
    for (uintptr_t i = 0; i < WRITERS; i++)
        pthread_create(&writers[i], NULL, write_many, (void *)i);
    for (unsigned read = 0; read < WRITERS * EVENTS;) {
        struct jitunwind_event events[100];
        size_t count = jitunwind_take(events, 100);
        for (size_t i = 0; i < count; i++) {
            CHECK(events[i].size == last[events[i].start] + 1, "%lu after %lu", events[i].size, last[events[i].start]);
            last[events[i].start]++;
        }
        read += count;
        if (!count)
            sched_yield();
    }
    for (unsigned i = 0; i < WRITERS; i++)
        pthread_join(writers[i], NULL);
    CHECK(!there_is_one());
}

static void fill_and_empty(void)
{
    struct jitunwind_event event;
    for (unsigned lap = 0; lap < 3; lap++) {
        for (unsigned i = 0; i < RING; i++)
            CHECK(append(CODE_CAME, i, lap), "%u, lap %u", i, lap);
        CHECK(!append(CODE_CAME, 0, 0), "more than full");
        for (unsigned i = 0; i < RING; i++)
            CHECK(take(&event) && event.start == i && event.size == lap, "%u, lap %u", i, lap);
        CHECK(!take(&event));
    }
}

static void take_the_second(void)
{
    struct jitunwind_event event;
    CHECK(take(&event) && event.start == 2, "the event behind the hole");
    CHECK(!take(&event));
    CHECK(jitunwind_lost(), "what was in the middle of coming");
    fill_and_empty();
}

/* A fork in the middle of another thread's `append`. */
static void torn_append(void)
{
    atomic_fetch_add(&next_write, 1);
    append(CODE_CAME, 2, 0);
    in_child(take_the_second);
}

static void take_what_is_left(void)
{
    struct jitunwind_event event;
    CHECK(take(&event) && event.start == 2, "the event behind the one that was taken");
    CHECK(jitunwind_lost(), "what was in the middle of being taken");
    fill_and_empty();
}

/* A fork in the middle of another thread's `take`. */
static void torn_take(void)
{
    append(CODE_CAME, 1, 0);
    append(CODE_CAME, 2, 0);
    atomic_fetch_add(&next_read, 1);
    in_child(take_what_is_left);
}

/* `resume` with something to do calls the worker, although no event has come. */
static void resume_now(void)
{
    jitunwind_pause();
    jitunwind_set_worker(answer, NULL);
    jitunwind_resume(1);
    wait_for_call();
    jitunwind_pause();
    wait_to_be_alone();
}

static void *pause_and_resume(void *unused)
{
    (void)unused;
    for (unsigned i = 0; i < 300; i++) {
        jitunwind_pause();
        CHECK(jitunwind_is_paused());
        jitunwind_resume(1);
    }
    return NULL;
}

/* Threads that pause at one time, each for itself. */
static void pauses_overlap(void)
{
    pthread_t threads[WRITERS];
    jitunwind_set_worker(answer, NULL);
    for (unsigned i = 0; i < WRITERS; i++)
        pthread_create(&threads[i], NULL, pause_and_resume, NULL);
    for (unsigned i = 0; i < WRITERS; i++)
        pthread_join(threads[i], NULL);
    wait_for_call();
    CHECK(!jitunwind_is_paused());
    jitunwind_pause();
    wait_to_be_alone();
    jitunwind_pause();
    jitunwind_resume(1);
    CHECK(jitunwind_is_paused(), "one of two goes on");
    jitunwind_resume(1);
    jitunwind_resume(1);
    CHECK(!jitunwind_is_paused());
    jitunwind_pause();
}

static void go_on_in_child(void)
{
    wait_to_be_alone();
    jitunwind_resume(1);
    wait_for_call();
    jitunwind_pause();
}

/* The child of one of two threads that have paused. */
static void fork_while_two_pause(void)
{
    jitunwind_set_worker(answer, NULL);
    jitunwind_pause();
    jitunwind_pause();
    in_child(go_on_in_child);
}

/* A hook leaves errno alone where it succeeds. */
static void errno_stays(void)
{
    char *page = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    jitunwind_set_worker(answer, NULL);
    errno = 77;
    CHECK(events_mprotect(page, PAGE, PROT_READ | PROT_EXEC) == 0 && errno == 77, "mprotect: %d", errno);
    CHECK(events_munmap(page, PAGE) == 0 && errno == 77, "munmap: %d", errno);
    CHECK(events_mprotect(page + 1, PAGE, PROT_READ | PROT_EXEC) == -1 && errno == EINVAL);
    wait_for_call();
    jitunwind_pause();
}

/* The thread ends by itself when nothing comes any more. */
static void ends_by_itself(void)
{
    char *page = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    jitunwind_set_worker(answer, NULL);
    events_mprotect(page, PAGE, PROT_READ | PROT_EXEC);
    wait_for_call();
    wait_to_be_alone();
    events_munmap(page, PAGE);
    wait_for_call();
    jitunwind_pause();
    CHECK(!there_is_one() && !remembered((uintptr_t)page));
}

/* Addresses are remembered and forgotten, more often than there are places; what has no place is told of. */
static void addresses(void)
{
    for (uint64_t round = 0; round < 4; round++) {
        for (uint64_t i = 1; i <= TABLE / 4; i++)
            remember((round * TABLE + i) << PAGE_BITS, true);
        CHECK(!jitunwind_lost(), "round %lu", round);
        for (uint64_t i = 1; i <= TABLE / 4; i++) {
            _Atomic uint64_t *place = remembered((round * TABLE + i) << PAGE_BITS);
            CHECK(place, "%lu of round %lu", i, round);
            atomic_store(place, USED);
        }
    }
    for (uint64_t i = 1; i <= TABLE + 1; i++)
        remember(i << PAGE_BITS, true);
    CHECK(jitunwind_lost());
}

int main(int count, char **arguments)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } cases[] = {
        {"laps", laps},
        {"fill_and_empty", fill_and_empty},
        {"torn_append", torn_append},
        {"torn_take", torn_take},
        {"resume_now", resume_now},
        {"pauses_overlap", pauses_overlap},
        {"fork_while_two_pause", fork_while_two_pause},
        {"errno_stays", errno_stays},
        {"ends_by_itself", ends_by_itself},
        {"addresses", addresses},
    };
    if (!alone)
        alone = threads_there();
    sem_init(&called, 0, 0);
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++)
        if (count == 2 && !strcmp(arguments[1], cases[i].name)) {
            alarm(60);
            cases[i].run();
            return 0;
        }
    CHECK(0, "no such case");
}
