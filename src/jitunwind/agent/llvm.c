/* LLVM's libunwind, where it is loaded. It takes each FDE: __unw_add_dynamic_fde and __unw_remove_dynamic_fde
   (libunwind.cpp), since LLVM 5. */

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "consumer.h"
#include "unwinding.h"

static void (*add_frame)(uint64_t);
static void (*remove_frame)(uint64_t);
static uint64_t bytes_held;

static bool find(void)
{
    static bool tried;
    if (tried)
        return add_frame != NULL;
    void *library = libunwind_loaded() ? dlopen("libunwind.so.1", RTLD_LAZY | RTLD_NOLOAD) : NULL; /* it stays, then */
    if (!library)
        return false;
    tried = true;
    void *functions[] = {dlsym(library, "__unw_add_dynamic_fde"), dlsym(library, "__unw_remove_dynamic_fde")};
    if (functions[0] && functions[1]) {
        memcpy(&add_frame, &functions[0], sizeof(void *));
        memcpy(&remove_frame, &functions[1], sizeof(void *));
    }
    return add_frame != NULL;
}

static void for_each_frame(const unsigned char *at, size_t size, void (*function)(uint64_t))
{
    const unsigned char *end = at + size, *frame;
    sigset_t before = block_signals();
    while ((frame = next_frame(&at, end)))
        function((uint64_t)(uintptr_t)frame);
    unblock_signals(before);
}

/* It counts back from an FDE to its CIE without a sign (decodeFDE): where a shared CIE lies behind, it gets a copy of
   both. */
static size_t size_of_frames(const struct jitunwind_publication *publication)
{
    const struct cie *cie = publication->cie;
    bool is_copy = cie && (uintptr_t)cie > (uintptr_t)publication->frames;
    return publication->frames_size + (is_copy ? cie->size : 0);
}

static size_t held_copy(const struct jitunwind_publication *publication)
{
    return publication->llvm != publication->frames ? held(publication->llvm) : 0;
}

/* Without memory for a copy it goes without: other unwinders know the region all the same. */
static int add(struct jitunwind_publication *publication, const struct jitunwind_region *region)
{
    (void)region;
    size_t size = size_of_frames(publication);
    unsigned char *frames = publication->frames;
    if (!publication->frames_size)
        return 0;
    if (size > publication->frames_size) {
        const struct cie *cie = publication->cie;
        frames = malloc(size);
        if (!frames)
            return 0;
        cie_put_frames(put(frames, cie->bytes, cie->size), publication->frames, publication->frames_size, frames);
    }
    publication->llvm = frames;
    bytes_held += held_copy(publication);
    for_each_frame(frames, size, add_frame);
    return 0;
}

static bool take_back(struct jitunwind_publication *publication)
{
    if (!publication->llvm)
        return false;
    bytes_held -= held_copy(publication);
    for_each_frame(publication->llvm, size_of_frames(publication), remove_frame);
    if (publication->llvm != publication->frames)
        free(publication->llvm);
    publication->llvm = NULL;
    return false;
}

static void count_bytes(struct jitunwind_statistics *statistics)
{
    statistics->bytes += bytes_held;
}

const struct consumer llvm_consumer = {
    .name = "libunwind", /* whichever is loaded, or both */
    .bit = JITUNWIND_LIBUNWIND,
    .joins_late = true,
    .find = find,
    .add = add,
    .remove = take_back,
    .count = count_bytes,
};
