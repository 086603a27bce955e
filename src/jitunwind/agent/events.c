/* Which machine code comes and goes: noted on the JIT's path, handled later by the worker.

   The hooks append to a ring, without a lock. Memory that held code is not unmapped at once: the worker first
   withdraws what was published of it, then calls jitunwind_unmap. Where there is no worker, the hooks do it all.

   The worker is a thread that is there only while there is something to do: a process must be able to end with
   its last thread (in the child of a thread's fork, say), and CPython warns of forks that have threads beside them. */

#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"

enum { RING = 1 << 12, TABLE = 1 << 18, LONGEST_PROBE = 64, PAGE_BITS = 12 };

/* Each place of the ring is used once in a lap. In lap n it is free at state 2n, and full at 2n + 1. */
static struct {
    _Atomic uint64_t state;
    struct jitunwind_event event;
} ring[RING];
static _Atomic uint64_t next_write, next_read;

/* The addresses at which code begins, by their page: code lies side by side, and so do their places here, so that few
   pages of this are ever used. FREE and USED are no addresses. */
enum { FREE, USED };
static _Atomic uint64_t known[TABLE];
static _Atomic uint64_t came_at[TABLE]; /* of each when it came, in ns of CLOCK_MONOTONIC */

static _Atomic bool lost;           /* code came that there is no event for */
static _Atomic uint32_t wakeup_seq; /* a futex, which changes when there is something to do */
static _Atomic bool is_waiting;     /* the worker waits for wakeup_seq to change */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of what follows */
static void (*_Atomic worker_callback)(void *);          /* NULL: there is no worker */
static void *_Atomic worker_argument;                    /* what it is called with */
static pthread_t thread;
static enum { NONE, RUNS, HAS_ENDED } thread_state;
static pthread_cond_t ended = PTHREAD_COND_INITIALIZER;
static _Atomic int pauses;        /* more than 0: paused */
static _Atomic bool work_pending; /* there is something to do; the worker's own code waits until there is */
static bool has_worked;           /* the worker's own */
static _Thread_local bool is_worker;

enum { GATHERING_MS = 50, PATIENCE_MS = 100 };

static bool append(uint64_t kind, uint64_t start, uint64_t size)
{
    uint64_t at = atomic_load(&next_write);
    for (;;) {
        uint64_t state = atomic_load(&ring[at % RING].state), lap = at / RING;
        if (state < 2 * lap)
            return false; /* full: not read since the last lap */
        if (state == 2 * lap && atomic_compare_exchange_weak(&next_write, &at, at + 1))
            break;
        if (state != 2 * lap)
            at = atomic_load(&next_write);
    }
    ring[at % RING].event = (struct jitunwind_event){kind, start, size};
    atomic_store(&ring[at % RING].state, 2 * (at / RING) + 1);
    return true;
}

static bool there_is_one(void)
{
    uint64_t at = atomic_load(&next_read);
    return atomic_load(&ring[at % RING].state) == 2 * (at / RING) + 1;
}

static bool there_is_work(void)
{
    return !atomic_load(&pauses) && atomic_load(&work_pending);
}

/* One reader at a time. */
static bool take(struct jitunwind_event *event)
{
    do {
        if (!there_is_one())
            return false;
        uint64_t at = atomic_fetch_add(&next_read, 1);
        *event = ring[at % RING].event;
        atomic_store(&ring[at % RING].state, 2 * (at / RING) + 2);
    } while (event->kind == NOTHING);
    return true;
}

uint64_t events_now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

/* `is_new`: it has come just now; else, if it is known, it stays as old as it is. */
static void remember(uint64_t start, bool is_new)
{
    uint64_t page = start >> PAGE_BITS;
    for (unsigned i = 0; i < LONGEST_PROBE; i++) {
        _Atomic uint64_t *place = &known[(page + i) % TABLE];
        uint64_t value = atomic_load(place);
        if (value != start && (value > USED || !atomic_compare_exchange_strong(place, &value, start)))
            continue;
        if (is_new || value != start)
            atomic_store(&came_at[place - known], events_now());
        return;
    }
    atomic_store(&lost, true);
}

static _Atomic uint64_t *remembered(uint64_t start)
{
    uint64_t page = start >> PAGE_BITS;
    for (unsigned i = 0; i < LONGEST_PROBE; i++) {
        _Atomic uint64_t *place = &known[(page + i) % TABLE];
        uint64_t value = atomic_load(place);
        if (value == start)
            return place;
        if (value == FREE)
            return NULL;
    }
    return NULL;
}

static void wake_worker(void)
{
    atomic_fetch_add(&wakeup_seq, 1);
    if (atomic_load(&is_waiting))
        syscall(SYS_futex, &wakeup_seq, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

/* Until wakeup_seq is no longer `seen_seq`, or that time is over. */
static void wait_for_wakeup(uint32_t seen_seq, long milliseconds)
{
    struct timespec time = {0, milliseconds * 1000000};
    atomic_store(&is_waiting, true);
    syscall(SYS_futex, &wakeup_seq, FUTEX_WAIT_PRIVATE, seen_seq, &time, NULL, 0);
    atomic_store(&is_waiting, false);
}

static void *run_worker(void *unused)
{
    (void)unused;
    is_worker = true;
    prctl(PR_SET_NAME, "jitunwind");
    for (;;) {
        uint32_t seen_seq = atomic_load(&wakeup_seq);
        if (!there_is_work() && !atomic_load(&pauses))
            wait_for_wakeup(seen_seq, PATIENCE_MS);
        pthread_mutex_lock(&lock);
        if (!there_is_work()) {
            thread_state = HAS_ENDED;
            pthread_cond_broadcast(&ended);
            pthread_mutex_unlock(&lock);
            return NULL;
        }
        pthread_mutex_unlock(&lock);
        struct timespec gathering = {0, GATHERING_MS * 1000000};
        if (has_worked) /* the first time takes its own time */
            nanosleep(&gathering, NULL); /* code comes in bursts */
        has_worked = true;
        atomic_store(&work_pending, false);
        void (*function)(void *) = atomic_load(&worker_callback);
        if (function)
            function(atomic_load(&worker_argument));
    }
}

/* With the lock, which a thread that has ended needs no more. */
static void join_if_ended(void)
{
    if (thread_state == HAS_ENDED) {
        pthread_join(thread, NULL);
        thread_state = NONE;
    }
}

/* Have the worker's thread run, with all signals blocked: they are for the program's own. */
static void call_worker(void)
{
    sigset_t all, before;
    if (is_worker)
        return;
    atomic_store(&work_pending, true);
    wake_worker();
    pthread_mutex_lock(&lock);
    join_if_ended();
    if (thread_state == NONE && !atomic_load(&pauses)) {
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        thread_state = pthread_create(&thread, NULL, run_worker, NULL) ? NONE : RUNS;
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    pthread_mutex_unlock(&lock);
}

int events_mprotect(void *address, size_t size, int protection)
{
    int result = (int)syscall(SYS_mprotect, address, size, protection), before = errno;
    if (result == 0 && protection & PROT_EXEC) {
        remember((uintptr_t)address, true);
        if (!atomic_load(&worker_callback) || !append(CODE_CAME, (uintptr_t)address, size))
            atomic_store(&lost, true);
        if (atomic_load(&worker_callback))
            call_worker();
        errno = before;
    }
    return result;
}

/* Take back what is said of code that was in [start, start + size), and unmap it. */
static int let_go(uint64_t start, uint64_t size)
{
    _Atomic uint64_t *place = remembered(start);
    if (place)
        atomic_store(place, USED);
    jitunwind_withdraw_range(start, size);
    return (int)syscall(SYS_munmap, start, size);
}

int events_munmap(void *address, size_t size)
{
    uint64_t start = (uintptr_t)address;
    int before = errno;
    if (!remembered(start))
        return (int)syscall(SYS_munmap, address, size);
    if (atomic_load(&worker_callback) && append(CODE_GOES, start, size)) {
        call_worker();
        errno = before;
        return 0;
    }
    return let_go(start, size);
}

/* What follows is for the worker. */

void jitunwind_unmap(uint64_t start, uint64_t size)
{
    let_go(start, size);
}

/* Code that was there before anybody followed; so that what is said of it is taken back with it. */
void jitunwind_remember(uint64_t start)
{
    remember(start, false);
}

uint64_t events_came_at(uint64_t start)
{
    const _Atomic uint64_t *place = remembered(start);
    return place ? atomic_load(&came_at[place - known]) : 0;
}

/* Stand still: the thread has ended when this returns. Not to be called with a lock that `worker_callback` takes. Several
   threads may, and each has to call jitunwind_resume before the worker goes on. */
void jitunwind_pause(void)
{
    atomic_fetch_add(&pauses, 1);
    wake_worker();
    pthread_mutex_lock(&lock);
    while (thread_state == RUNS)
        pthread_cond_wait(&ended, &lock);
    join_if_ended();
    pthread_mutex_unlock(&lock);
}

/* Go on; `now`: there is something to do, even if there are no events. Where nobody has paused, that alone. */
void jitunwind_resume(int now)
{
    int count = atomic_load(&pauses);
    while (count && !atomic_compare_exchange_weak(&pauses, &count, count - 1))
        ;
    if (now || atomic_load(&work_pending))
        jitunwind_call();
}

/* There is something to do, even if there are no events. While paused, it is done afterwards. */
void jitunwind_call(void)
{
    if (atomic_load(&worker_callback))
        call_worker();
}

/* Whether the worker should come to an end soon. */
int jitunwind_is_paused(void)
{
    return atomic_load(&pauses) > 0;
}

/* Have `function` called with `argument`, in a thread of its own, soon after code has come or gone; NULL: there is no
   worker any more, and nothing is left to do. Called while paused. */
void jitunwind_set_worker(void (*function)(void *), void *argument)
{
    struct jitunwind_event event;
    atomic_store(&worker_argument, argument);
    atomic_store(&worker_callback, function);
    while (!function && take(&event))
        if (event.kind == CODE_GOES)
            let_go(event.start, event.size);
        else
            atomic_store(&lost, true);
}

/* How many have not been taken. */
size_t jitunwind_events(void)
{
    uint64_t read = atomic_load(&next_read), written = atomic_load(&next_write);
    return written > read ? (size_t)(written - read) : 0;
}

size_t jitunwind_take(struct jitunwind_event *events, size_t room)
{
    size_t count = 0;
    while (count < room && take(&events[count]))
        count++;
    return count;
}

/* Whether code came that there is no event for. */
int jitunwind_lost(void)
{
    return atomic_exchange(&lost, false);
}

static void before_fork(void)
{
    pthread_mutex_lock(&lock);
}

static void after_fork_in_parent(void)
{
    pthread_mutex_unlock(&lock);
}

/* Other threads, which are not in the child, may have been in the middle of `append` or `take`. */
static void repair_ring(void)
{
    uint64_t read = atomic_load(&next_read), write = atomic_load(&next_write);
    for (uint64_t at = read > RING ? read - RING : 0; at < write; at++) {
        _Atomic uint64_t *state = &ring[at % RING].state;
        uint64_t lap = at / RING;
        if (at < read && atomic_load(state) == 2 * lap + 1) {
            atomic_store(state, 2 * lap + 2);
            atomic_store(&lost, true);
        } else if (at >= read && atomic_load(state) == 2 * lap) {
            ring[at % RING].event = (struct jitunwind_event){NOTHING, 0, 0};
            atomic_store(state, 2 * lap + 1);
            atomic_store(&lost, true);
        }
    }
}

static void after_fork_in_child(void)
{
    if (thread_state != NONE) /* it may have been in the middle of something, too */
        atomic_store(&lost, true);
    thread_state = NONE;
    pthread_cond_init(&ended, NULL);
    atomic_store(&pauses, atomic_load(&pauses) > 0); /* that of the thread that forks */
    repair_ring();
    pthread_mutex_unlock(&lock);
}

__attribute__((constructor)) static void guard_forks(void)
{
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}
