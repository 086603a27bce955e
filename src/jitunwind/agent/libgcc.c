/* libgcc's unwinder, which C++ exceptions, backtrace and pthread_cancel use. It takes .eh_frame bytes as they are. */

#include <dlfcn.h>
#include <pthread.h>
#include <string.h>

#include "consumer.h"
#include "unwinding.h"

static void (*register_frame)(void *);
static void (*deregister_frame)(void *);
static const void *(*find_fde)(void *, void *);

static void find(void)
{
    void *libgcc = dlopen("libgcc_s.so.1", RTLD_LAZY); /* the one that is loaded, if one is; it stays */
    if (!libgcc)
        return;
    void *functions[] = {dlsym(libgcc, "__register_frame"), dlsym(libgcc, "__deregister_frame"),
                         dlsym(libgcc, "_Unwind_Find_FDE")};
    if (functions[0] && functions[1] && functions[2]) {
        memcpy(&register_frame, &functions[0], sizeof(void *));
        memcpy(&deregister_frame, &functions[1], sizeof(void *));
        memcpy(&find_fde, &functions[2], sizeof(void *));
    }
}

bool libgcc_find(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, find);
    return register_frame != NULL;
}

/* The first look for an address among new frames sorts them, in memory from malloc (init_object in unwind-dw2-fde.c). That
   is done here: a handler that has interrupted malloc must not come to it. */
void libgcc_register(void *frames, size_t size)
{
    const unsigned char *at = frames, *frame = next_frame(&at, at + size);
    void *start, *bases[3];
    sigset_t before = block_signals();
    register_frame(frames);
    if (frame) {
        memcpy(&start, frame + 8, sizeof start);
        find_fde(start, bases);
    }
    unblock_signals(before);
}

void libgcc_deregister(void *frames)
{
    sigset_t before = block_signals();
    deregister_frame(frames);
    unblock_signals(before);
}

static int add(struct jitunwind_publication *publication, const struct jitunwind_region *region)
{
    (void)region;
    if (publication->frames_size)
        libgcc_register(publication->frames, publication->frames_size);
    return 0;
}

static bool take_back(struct jitunwind_publication *publication)
{
    if (publication->frames_size)
        libgcc_deregister(publication->frames);
    return false;
}

const struct consumer libgcc_consumer = {
    .name = "libgcc",
    .bit = JITUNWIND_LIBGCC,
    .find = libgcc_find,
    .add = add,
    .remove = take_back,
};
